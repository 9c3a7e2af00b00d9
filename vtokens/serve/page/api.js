// The server's public interface, as any client has it: /v1/models and /v1/chat/completions, streamed.

/** What the server refused, or could not do: its message, which field it is about, and the HTTP status. */
export class Refused extends Error {
  constructor({ message, param = null, code = null } = {}, status = 0, after = null) {
    super(message || `the server answered with status ${status}`);
    Object.assign(this, { param, code, status, after });
  }
}

const headers = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

const refused = async (answer) => {
  const body = await answer.json().catch(() => ({}));
  const told = typeof body.error === "string" ? { message: body.error } : body.error;
  return new Refused(told ?? { message: body.detail && JSON.stringify(body.detail) }, answer.status, answer.headers.get("Retry-After"));
};

const reached = async (path, options) => {
  let answer;
  try {
    answer = await fetch(path, { ...options, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ message: "The server cannot be reached: is it still running?" });
  }
  if (!answer.ok) throw await refused(answer);
  return answer;
};

/** The models and presets that can be asked. */
export const models = async (key) => (await (await reached("v1/models", { headers: headers(key) })).json()).data;

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}

/**
 * Ask one question.
 *
 * `heard` is called with all of the answer so far. The result has the text, milliseconds to the first of it and to the
 * end, and the server's own account: `usage`, and `vtokens` with what was kept and what the filter marked.
 */
export const ask = async ({ model, strategy, pictures, question, most, filter }, key, heard, signal) => {
  const content = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  const wanted = { kept: true };
  if (strategy) wanted.strategy = strategy;
  if (filter) wanted.filter = filter;
  const body = {
    model, messages: [{ role: "user", content: [...content, { type: "text", text: question }] }],
    max_tokens: most, temperature: 0, stream: true, stream_options: { include_usage: true }, vtokens: wanted,
  };
  const begin = performance.now();
  const answer = await reached("v1/chat/completions", {
    method: "POST", body: JSON.stringify(body), signal, headers: { "Content-Type": "application/json", ...headers(key) },
  });
  const found = { text: "", first: null, whole: null, reason: null, usage: null, vtokens: null };
  let ended = false;
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") { ended = true; break; }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(chunk.error, answer.status);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) {
      found.first ??= performance.now() - begin;
      found.text += choice.delta.content;
      heard(found.text);
    }
    found.reason = choice?.finish_reason ?? found.reason;
    found.usage = chunk.usage ?? found.usage;
    found.vtokens = chunk.vtokens ?? found.vtokens;
  }
  if (!ended) throw new Refused({ message: "The answer broke off before its end." });
  found.whole = performance.now() - begin;
  return found;
};
