# Asks for more memory than the policy grants. The program sees a MemoryError and can go on.
kept = []
try:
    while True:
        kept.append(bytearray(16 * 1024 * 1024))
except MemoryError:
    count = len(kept)
    kept.clear()
    print(f"memory ended after {count} blocks of 16 MiB; the program goes on")
