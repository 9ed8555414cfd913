// The same request from a terminal and from Python.

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// JSON strings are Python strings too; only half surrogates would be odd, and the API refuses them.
const python = (value) => {
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  const lines = Object.entries(value).map(([k, v]) => `    ${python(k)}: ${python(v)},\n`);
  return `{\n${lines.join("")}}`;
};

export function curl(request, base, needsToken) {
  const lines = [
    `curl -sS ${shell(`${base}v1/extract`)}`,
    ...(needsToken ? ['-H "Authorization: Bearer $NOMINA_TOKEN"'] : []),
    "-H 'Content-Type: application/json'",
    `-d ${shell(JSON.stringify(request))}`,
  ];
  return lines.join(" \\\n  ");
}

export function pythonCode(request, base, needsToken) {
  const { texts, labels, threshold } = request;
  const one = texts.length === 1;
  return [
    "import nomina",
    "",
    `tagger = nomina.Client(${python(base.replace(/\/$/, ""))})`
      + (needsToken ? "  # the token is read from NOMINA_TOKEN" : ""),
    `labels = ${python(labels)}`,
    one ? `texts = [${python(texts[0])}]` : `texts = [\n${texts.map((x) => `    ${python(x)},\n`).join("")}]`,
    `for document in tagger.pipe(texts, labels, threshold=${threshold}):`,
    "    for entity in document:",
    "        print(entity.label, entity.text, entity.start, entity.end, entity.score)",
    "",
  ].join("\n");
}
