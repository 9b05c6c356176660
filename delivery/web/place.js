// Where the page is: its view, its filter, the open event. The address's fragment holds all of it, so
// that a reload, a bookmark and a link to a colleague show the same.

export const FILTERS = [
  "state", "class", "channel", "type", "user_prefix", "run_prefix", "id_prefix", "error", "from", "to",
  "user_id", "run_id",
];
export const RANGES = { "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000 };

/** `{view, id, filter, event, range, follows, tour}`; `view` is `board`, `user` or `run`. */
export function readPlace() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const filter = {};
  for (const name of FILTERS) if (fragment.get(name)) filter[name] = fragment.get(name);
  if (fragment.get("id") && !filter.id_prefix) filter.id_prefix = fragment.get("id");
  const view = ["user", "run"].find((name) => fragment.get(name)) ?? "board";
  return {
    view,
    id: view === "board" ? null : fragment.get(view),
    filter,
    event: fragment.get("event"),
    range: fragment.get("range") in RANGES ? fragment.get("range") : "1h",
    follows: fragment.has("follow"),
    tour: fragment.has("tour"),
  };
}

export function fragmentOf({ view, id, filter, event, range, follows, tour }) {
  const fragment = new URLSearchParams();
  if (tour) fragment.set("tour", "");
  if (follows) fragment.set("follow", "");
  if (view !== "board") fragment.set(view, id);
  for (const name of FILTERS) if (filter[name]) fragment.set(name, filter[name]);
  if (event) fragment.set("event", event);
  if (range !== "1h") fragment.set("range", range);
  return String(fragment);
}

/** Put a place into the address: as a step to go back from, or in place of the present one. */
export function writePlace(place, { step = false } = {}) {
  const fragment = fragmentOf(place);
  const address = location.pathname + location.search + (fragment ? `#${fragment}` : "");
  if (address === location.pathname + location.search + location.hash) return;
  history[step ? "pushState" : "replaceState"](null, "", address);
}

/** A link's address to another place: the view alone. */
export const linkTo = (view, id) => `#${new URLSearchParams({ [view]: id })}`;
