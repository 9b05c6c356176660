"""Starts Delivery and the shop together; Ctrl-C stops both.

Run: pip install delivery-ledger fastapi uvicorn && python examples/fullstack/main.py
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PORT = int(os.environ.get("SHOP_PORT", "8000"))
SHOP = f"http://127.0.0.1:{PORT}"
SETTINGS = {
    "DELIVERY_JWT_SECRET": os.environ.get("DELIVERY_JWT_SECRET") or secrets.token_hex(32),
    "DELIVERY_POLICIES": str(HERE / "policies.toml"),
    "DELIVERY_ALLOWED_ORIGINS": f"{SHOP},http://localhost:{PORT}",
    "DELIVERY_BRAND_NAME": "Shop",
    "DELIVERY_APP_URL": SHOP,
    "DELIVERY_MAIL_FROM": "Shop <news@shop.example>",
}


def main() -> None:
    environment = {**SETTINGS, **os.environ, "DELIVERY_JWT_SECRET": SETTINGS["DELIVERY_JWT_SECRET"]}
    command = [sys.executable, "-m", "delivery", "up", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as service:
        try:
            address = json.loads(service.stdout.readline() if service.stdout else "")
            if "error" in address:
                raise SystemExit(address["error"]["message"])
            os.environ.update(environment, DELIVERY_URL=address["url"])
            sys.stdout.write(f"shop:              {SHOP}\nevents and mails:  {address['page']}\n")
            sys.stdout.flush()
            serve()
        finally:
            service.terminate()


def serve() -> None:
    import uvicorn

    uvicorn.run("app:app", app_dir=str(HERE), host="127.0.0.1", port=PORT, log_level="warning")


if __name__ == "__main__":
    main()
