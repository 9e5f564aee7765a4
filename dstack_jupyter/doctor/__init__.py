"""What `%dstack doctor` examines from outside the engine: it must say what is wrong where nothing else works any more.

Nothing here changes anything but ``files.fix``.
"""
