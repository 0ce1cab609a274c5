// Changes need the scope admin, promotions approve: of the browser's login, or of a token that it keeps until the tab is closed.
import { go } from "./router.js";

export async function act(path, body) {
  let token = sessionStorage.getItem("token") || "";
  const send = () => fetch(path, {
    method: "POST", body: JSON.stringify(body),
    headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
  });
  let answer = await send();
  if ([401, 403].includes(answer.status)) {
    token = window.prompt("A token with the scope admin, or approve for a promotion") || "";
    sessionStorage.setItem("token", token);
    answer = await send();
  }
  const found = await answer.json();
  document.getElementById("updated").textContent = found.sentence || found.error;
  if (answer.ok) go(location.pathname + location.search, false);
}
