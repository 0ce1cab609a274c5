// Changes need an admin token, which the browser keeps until the tab is closed.
import { go } from "./router.js";

export async function act(path, body) {
  let token = sessionStorage.getItem("token") || "";
  const send = () => fetch(path, {
    method: "POST", body: JSON.stringify(body),
    credentials: "omit", // or the browser asks for a password of its own
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
  });
  let answer = await send();
  if (answer.status === 401) {
    token = window.prompt("An admin token of GRIDCAST_TOKENS") || "";
    sessionStorage.setItem("token", token);
    answer = await send();
  }
  const found = await answer.json();
  document.getElementById("updated").textContent = found.sentence || found.error;
  if (answer.ok) go(location.pathname + location.search, false);
}
