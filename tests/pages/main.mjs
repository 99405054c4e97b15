// Walks every page, looks for every name in them, and tries the sample endpoint.

import { mkdirSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';

import { checkNames } from './names.mjs';
import { SAMPLE, checkReceiver } from './receiver.mjs';
import { walk } from './walk.mjs';

const [work, root, ...words] = process.argv.slice(2);
const only = words.filter((word) => word !== '--print');
const print = words.includes('--print') ? (text) => process.stdout.write(text) : () => {};
let [passed, failed] = [0, 0];

function say(what, complaints, detail = '') {
  if (complaints.length === 0) passed += 1; else failed += 1;
  console.log(`${complaints.length === 0 ? 'ok  ' : 'FAIL'} ${what}${detail}`);
  for (const complaint of complaints) console.log(`     ${complaint.replaceAll('\n', '\n     ')}`);
}

function pages() {
  const below = readdirSync(join(root, 'examples'), { recursive: true }).filter((name) => name.endsWith('.md') && !name.includes('node_modules'));
  return ['README.md', ...below.sort().map((name) => join('examples', name))];
}

let number = 0;
for (const name of pages()) {
  if (only.length > 0 && !only.includes(name)) continue;
  number += 1;
  const place = join(work, String(number));
  mkdirSync(place);
  const { ran, notRun, complaints } = await walk(join(root, name), place, root, print);
  say(relative(root, join(root, name)), complaints, `: ${ran} blocks run${notRun > 0 ? `, ${notRun} marked` : ''}`);
}

if (only.length === 0 || only.includes(SAMPLE)) for (const [what, complaints] of await checkReceiver(root, work)) say(`${SAMPLE}: ${what}`, complaints);

const named = pages().filter((name) => only.length === 0 || only.includes(name)).map((name) => join(root, name));
for (const [what, complaints] of await checkNames(named, work, root)) say(what, complaints);

console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
