"""Mail over SMTP: headers, the message, its checks, the session with the server."""
