// A page's state in its address, behind the `#`: browsers do not send that to any server.

const squeeze = async (bytes, stream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());

export async function encode(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const packed = await squeeze(bytes, new CompressionStream("deflate-raw"));
  let binary = "";
  for (let at = 0; at < packed.length; at += 8192) {
    binary += String.fromCharCode(...packed.subarray(at, at + 8192));
  }
  return `#s=${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

// Returns undefined for what is not a state: anyone can write an address.
export async function decode(fragment) {
  if (!fragment.startsWith("#s=")) return undefined;
  try {
    const binary = atob(fragment.slice(3).replaceAll("-", "+").replaceAll("_", "/"));
    const packed = Uint8Array.from(binary, (char) => char.charCodeAt(0));
    const bytes = await squeeze(packed, new DecompressionStream("deflate-raw"));
    const state = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof state.text !== "string" || !Array.isArray(state.labels)) return undefined;
    const labels = state.labels
      .filter((x) => typeof x?.name === "string")
      .map((x) => ({ name: x.name, definition: typeof x.definition === "string" ? x.definition : "" }));
    const threshold = Number.isFinite(state.threshold) ? Math.min(1, Math.max(0, state.threshold)) : 0.5;
    return { text: state.text, labels, threshold };
  } catch {
    return undefined;
  }
}
