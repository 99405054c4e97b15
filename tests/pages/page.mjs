// A page as a reader sees it: its headings, its links, its blocks, and what the comments above them say.

import { readFileSync } from 'node:fs';

/** What a comment may say of the block below it. */
const MARKS = [
  [/^not run: (.+)$/s, (why) => ({ notRun: why })],
  [/^status (\d+)$/, (status) => ({ status: Number(status) })],
  [/^stays running: (\d+)$/, (port) => ({ staysRunning: port })],
  [/^stops: (\d+)$/, (port) => ({ stops: port })],
  [/^register (issuer|client)$/, () => ({ registered: true })],
];
/** What a block must not be called, since nobody could tell whether it is to be run. */
const NO_KINDS = new Set(['', 'bash', 'shell', 'console']);
const CONTINUES = /^continues (\S+)#(\S+)$/;

/** Reads a page: `{ text, headings, blocks, continues, complaints }`. */
export function read(path) {
  const page = { path, text: readFileSync(path, 'utf8'), headings: [], blocks: [], continues: null, complaints: [] };
  let marks = {};
  let section = '';
  let adjacent = null; // the block of commands with nothing but blank lines since
  const lines = page.text.split('\n');
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    const fence = /^(\s*)```(\w*)\s*$/.exec(line);
    if (fence) {
      const end = lines.findIndex((other, index) => index > at && other.trim() === '```');
      if (end < 0) throw new Error(`${path}:${at + 1}: a block without an end`);
      const text = lines.slice(at + 1, end).map((inner) => inner.slice(Math.min(fence[1].length, inner.search(/\S|$/)))).join('\n');
      const block = { line: at + 1, kind: fence[2], text, section, ...marks };
      page.blocks.push(block);
      if (NO_KINDS.has(block.kind)) page.complaints.push(`${at + 1}: a block is \`sh\`, which is run, or something else; never \`${block.kind}\``);
      if (adjacent && (block.kind === 'json' || block.kind === 'text')) adjacent.prints = block;
      adjacent = block.kind === 'sh' ? block : null;
      marks = {};
      at = end;
    } else if (line.trim() === '') {
      // nothing
    } else if (/^\s*<!--.*-->\s*$/.test(line)) {
      const said = line.trim().slice(4, -3).trim();
      const far = CONTINUES.exec(said);
      const known = MARKS.map(([form, make]) => [form.exec(said), make]).find(([match]) => match);
      if (far) page.continues = { page: far[1], section: far[2] };
      else if (known) Object.assign(marks, known[1](known[0][1]));
      else page.complaints.push(`${at + 1}: no such mark: ${said}`);
    } else {
      if (Object.keys(marks).length > 0) page.complaints.push(`${at + 1}: a mark that is above no block`);
      marks = {};
      adjacent = null;
      const heading = /^#+ (.*)$/.exec(line);
      if (heading) {
        section = anchor(heading[1]);
        page.headings.push(section);
      }
    }
  }
  return page;
}

/** The name a heading has in a link, as GitHub makes it. */
export function anchor(heading) {
  const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replace(/[`*]/g, '');
  return plain.trim().toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '').replace(/\s/g, '-');
}
