def run(figures):
    figures.add("before", 1)
    held = []
    while True:
        held.append(b"x" * 2**24)
