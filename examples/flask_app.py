"""A Flask application: its connection, emitters of the signed-in user, and its page's token.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... DELIVERY_JWT_SECRET=... flask --app flask_app run
"""

import os

from flask import Flask, request

from delivery.adapters.flask import Delivery

app = Flask(__name__)
app.config.from_mapping(
    {name: os.environ[name] for name in ("DELIVERY_URL", "DELIVERY_TOKEN", "DELIVERY_JWT_SECRET")}
)
# Who is signed in: yours asks the session, this one believes a header.
delivery = Delivery(app, current_user=lambda: request.headers.get("X-User"))


@app.post("/runs/<run_id>")
def start(run_id: str) -> dict[str, str]:
    """An agent's run of the user who asks."""
    emitter = delivery.emitter(run_id)
    emitter.emit_agent_started("planner")
    receipt = emitter.emit_agent_completed("done")  # returns once it is durable
    return {"run": run_id, "last_event": receipt.id}


@app.post("/orders/<int:number>/ship")
def ship(number: int) -> dict[str, str]:
    """An event for another user than the one who asks."""
    receipt = delivery.connection.emitter("ada", f"order-{number}").emit("order_shipped", {})
    return {"event": receipt.id}
