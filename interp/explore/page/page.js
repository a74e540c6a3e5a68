// The explorer as a page: questions go to the server that the page is from.
import { explore } from "./explorer.js";

const send = async (question) => {
  const answer = await fetch("ask", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};

const drop = (id) => send({ ask: "drop", id }).catch(() => {});
const silent = "No answer yet. Is `interp explore` still running?";
explore(document.querySelector("main"), send, silent, drop);
