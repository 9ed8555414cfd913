// The server's API, and nothing of the page.

export class ApiError extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const token = () => sessionStorage.getItem("nomina-token") || "";
export const setToken = (value) => sessionStorage.setItem("nomina-token", value);
export const hasToken = () => token() !== "";

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = `Bearer ${token()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached. Does it still run?");
  }
  if (response.ok) return response;
  let detail = `The server answered ${response.status}.`;
  try {
    detail = (await response.json()).detail || detail;
  } catch { /* not ours: the status has to do */ }
  throw new ApiError(response.status, detail, Number(response.headers.get("retry-after")) || 0);
}

export async function models() {
  return (await (await ask("v1/models")).json()).models;
}

// Yields {index, document} as documents are done, and {done, usage} at the end.
export async function* extract(request, signal) {
  const response = await ask("v1/extract", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/x-ndjson" },
    body: JSON.stringify(request),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isDone = false;
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value || "")).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line) continue;
      const item = JSON.parse(line);
      if (item.problem) throw new ApiError(item.problem.status, item.problem.detail);
      isDone ||= item.done === true;
      yield item;
    }
    if (done) break;
  }
  if (!isDone) throw new ApiError(0, "The server hung up before it was done.");
}
