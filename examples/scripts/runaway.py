# Never ends by itself: the limits of the policy stop it, and `weir run` ends with status 4.
print("counting", flush=True)
count = 0
while True:
    try:
        count += 1
    except BaseException:
        continue
