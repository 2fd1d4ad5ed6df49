"""Two small services for a host that has none of its own. `pair.py server|client PORT`"""
import http.server
import sys
import time
import urllib.request

role, port = sys.argv[1], int(sys.argv[2])


class Greeting(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *_):
        pass


if role == "server":
    http.server.HTTPServer(("127.0.0.1", port), Greeting).serve_forever()
while True:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
    except OSError as error:
        print(error, flush=True)
    time.sleep(2)
