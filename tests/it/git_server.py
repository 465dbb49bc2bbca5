"""A git server over HTTPS that wants a user and a token.

Usage: git_server.py FOLDER CERTIFICATE KEY USER TOKEN. Serves the repositories in FOLDER from a
free port of 127.0.0.1, which it prints, then one line for each request: host, path, and whether it
had the token. What is asked for below /moved is elsewhere: on the same port of localhost.
"""

import base64
import http.server
import os
import ssl
import subprocess
import sys

folder, certificate, key, user, token = sys.argv[1:]
expected = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        host, given = self.headers["Host"], self.headers.get("Authorization")
        print(host, self.path, "token" if given == expected else "none", flush=True)
        if self.path.startswith("/moved/"):
            self.send_response(302)
            port = self.server.server_port
            self.send_header("Location", f"https://localhost:{port}{self.path[6:]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if given != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": folder,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": user,
        }
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        done = subprocess.run(["git", "http-backend"], input=body, env=env, stdout=subprocess.PIPE)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((v for k, v in fields if k == "Status"), "200")
        self.send_response(int(status.split()[0]))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
