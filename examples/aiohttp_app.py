"""The gateway inside an existing aiohttp application, in one process.

Run: DELIVERY_JWT_SECRET=... python examples/aiohttp_app.py
"""

from aiohttp import web

import delivery

app = web.Application()
d = delivery.embed(app)  # adds /v1/ws, /v1/events and the rest; settings come from DELIVERY_*


async def start_run(request: web.Request) -> web.Response:
    run_id = request.match_info["run"]
    run = d.emitter(request.match_info["user"], run_id)
    await run.emit_agent_started("planner")
    receipt = await run.emit_agent_completed("done")
    return web.json_response({"run": run_id, "last_event": receipt.id})


app.router.add_post("/users/{user}/runs/{run}", start_run)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8080)
