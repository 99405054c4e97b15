// Whether what was printed is what a page says: but for what differs each time, and for what `…` leaves out.

/** What differs each time, and the word that stands for it. */
const VARIABLE = [
  [/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| UTC)?/g, '<time>'],
  [/\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b/g, '<id>'],
  [/\bldt_[\w…-]+/g, '<token>'],
  [/(?<![\w-])[\w-]{43}(?![\w-])/g, '<digest>'],
  [/\beyJ[\w-]+\.[\w-]+\.[\w-]+/g, '<jwt>'],
  [/\b\d{10,13}\b/g, '<number>'],
  [/\b\d+(\.\d+)?(?= (ms|s|B|KiB|MiB|bytes)\b)/g, '<number>'],
  [/\b[0-9a-f]{16,64}\b/g, '<hex>'],
  [/(?<=_ms":)\d+/g, '<number>'],
];

/** None when it is what the page says; else the two, as they were compared. */
export function difference(block, printed) {
  const expected = plain(block.text, block.kind);
  const got = plain(printed, block.kind);
  const parts = expected.replace(/,\s*…\s*,/g, ',…').split('…').map((part) => part.trim().replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(`^${parts.join('\\s*[\\s\\S]*?\\s*')}$`).test(got) ? null : { expected, got };
}

function plain(text, kind) {
  let said = text;
  for (const [what, word] of VARIABLE) said = said.replace(what, word);
  said = said.replace(/─+/g, '─').replace(/-{3,}/g, '---').replace(/[ \t]+/g, ' ');
  // JSON is one line where it is printed, and several where it is shown.
  const lines = said.split('\n').map((line) => line.trim()).filter((line) => line !== '');
  return lines.join(kind === 'json' ? '' : '\n');
}
