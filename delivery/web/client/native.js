// The client in React Native: over a WebSocket, and awake when the app comes to the foreground.

import { AppState } from "react-native";
import { connect as connectAnywhere } from "./client.js";

/** Connect; see client.d.ts. `fetch` has no streams here, so that there is no SSE to fall back to. */
export function connect(options) {
  const connection = connectAnywhere({ transport: "websocket", ...options });
  const watching = AppState.addEventListener("change", (state) => state === "active" && connection.wake());
  connection.onStatus(({ state }) => state === "closed" && watching.remove());
  return connection;
}
