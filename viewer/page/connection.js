// Requests and messages between a page and the server.

import { onLeave } from "./page.js";

// what it means that the server does not accept the token any more
const STARTED_AGAIN = "The viewer was started again. Open the link that it printed.";
// In a frame of another page, a browser sends no cookie, and the token stays in the address.
const TOKEN = new URLSearchParams(location.search).get("token");

// Returns the address of something on the server, below the page's own: a proxy may have moved it.
export function address(path, query = {}) {
  const url = new URL(path, new URL("./", location.href));
  for (const [key, value] of Object.entries(query)) url.searchParams.set(key, value);
  if (TOKEN !== null) url.searchParams.set("token", TOKEN);
  return url;
}

export async function fetchJson(path, query) {
  const response = await fetch(address(path, query));
  if (response.status === 403) throw new Error(STARTED_AGAIN);
  const body = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

// Fetches a file and lets the browser save it under a name.
export async function download(path, query, name) {
  const response = await fetch(address(path, query));
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? response.statusText);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Opens a web socket, and opens it again after the connection is lost. It ends with the page, and
// where the server no longer accepts the page's token.
export function connect(path, query, onMessage, onState) {
  let socket;
  let ended = false;
  let delay = 500; // milliseconds before the next attempt
  const url = address(path, query);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const open = () => {
    socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { delay = 500; onState("Connected. Loading the agent…"); };
    socket.onmessage = (event) => onMessage(...unpack(event.data));
    socket.onclose = async () => {
      if (ended) return;
      onState("Connection lost. Reconnecting…");
      const answer = await fetch(address("api/ping")).catch(() => null); // a web socket shows no status
      if (answer?.status === 403) {
        onState(STARTED_AGAIN);
        return;
      }
      setTimeout(() => { if (!ended) open(); }, delay);
      delay = Math.min(delay * 2, 8000);
    };
  };
  open();
  const end = () => { ended = true; socket.close(); };
  onLeave(end);
  const send = (command, value) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ do: command, value }));
  };
  return { end, send };
}

// Splits a message into its head and its pictures, see viewer/messages.py.
function unpack(data) {
  const length = new DataView(data).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const pictures = {};
  let offset = 4 + length;
  for (const [name, size] of Object.entries(head.parts)) {
    pictures[name] = new Blob([new Uint8Array(data, offset, size)], { type: "image/png" });
    offset += size;
  }
  return [head, pictures];
}
