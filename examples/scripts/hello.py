# A program for `weir run`: ordinary Python, with the modules that the policy grants.
import json
import math

shape = {"radius": 2.5, "area": round(math.pi * 2.5**2, 3)}
print("hello from the sandbox")
print(json.dumps(shape, sort_keys=True))
