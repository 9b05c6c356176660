#!/usr/bin/python3
"""Stand-in for Mailpit: SMTP on 1025, its API for messages and /readyz on 8025."""

import email
import email.policy
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller

MESSAGES = "/api/v1/messages"
MESSAGE = "/api/v1/message/"
mails = {}


class Keep:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        body = message.get_body(("plain",))
        key = str(len(mails) + 1)
        mails[key] = {
            "ID": key,
            "To": [{"Name": "", "Address": address} for address in envelope.rcpt_tos],
            "Subject": str(message["subject"]),
            "Text": body.get_content() if body is not None else "",
        }
        return "250 OK"


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == MESSAGES:
            answer = {"total": len(mails), "messages": list(reversed(mails.values()))}
        elif path.startswith(MESSAGE):
            answer = mails.get(path.removeprefix(MESSAGE))
        else:
            answer = "ok"
        self.send_response(200 if answer is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments):
        pass


Controller(Keep(), hostname="0.0.0.0", port=1025).start()
ThreadingHTTPServer(("0.0.0.0", 8025), Page).serve_forever()
