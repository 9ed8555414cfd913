// Cutting a text into pieces that are sent, so that results arrive piece by piece. Offsets count
// UTF-16 units, as strings do here. The pieces put together are the text.

const AIM = 500;

export function pieces(text, maxLength = 20000, maxPieces = 500) {
  const aim = Math.max(AIM, Math.ceil(text.length / maxPieces));
  const found = [];
  let start = 0;
  const push = (end) => {
    while (end - start > maxLength) {
      const cut = lastCut(text, start, start + maxLength);
      found.push({ start, text: text.slice(start, cut) });
      start = cut;
    }
    if (end > start) found.push({ start, text: text.slice(start, end) });
    start = end;
  };
  for (const match of text.matchAll(/\r?\n[ \t]*(?:\r?\n[ \t]*)+/g)) {
    const end = match.index + match[0].length;
    if (end - start >= aim) push(end);
  }
  push(text.length);
  return found;
}

function lastCut(text, start, limit) {
  const window = text.slice(start, limit);
  for (const pattern of [/\n(?=[^\n]*$)/, /[.!?。！？]\s+(?=[^.!?。！？]*$)/, /\s(?=\S*$)/]) {
    const match = pattern.exec(window);
    if (match && match.index > window.length / 4) return start + match.index + match[0].length;
  }
  const unit = text.charCodeAt(limit); // never between the halves of a surrogate pair
  return unit >= 0xdc00 && unit <= 0xdfff ? limit - 1 : limit;
}
