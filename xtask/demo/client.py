"""The client of the demo: one request, one line. `client.py http|redis ADDRESS PORT`"""
import errno
import socket
import sys
import time

kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
question = {"http": b"GET / HTTP/1.0\r\n\r\n", "redis": b"PING\r\n"}[kind]
start = time.monotonic()
try:
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(question)
        answer = connection.recv(4096)
except OSError as error:
    milliseconds = (time.monotonic() - start) * 1000
    print(f"refused: {errno.errorcode.get(error.errno, error)} after {milliseconds:.1f} ms")
    sys.exit(1)
lines = answer.decode(errors="replace").splitlines()
print(f"answered: {lines[-1] if lines else 'nothing'}")
