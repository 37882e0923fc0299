# The policy grants no sockets: `weir run` ends with status 3 and the reason.
print("before the import")
import socket

print("never printed", socket.gethostname())
