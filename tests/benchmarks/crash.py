import os
import signal


def run(figures):
    figures.add("before", 1)
    os.kill(os.getpid(), signal.SIGSEGV)
