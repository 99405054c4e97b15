// One page, from its first command to its last.

import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';

import { read } from './page.mjs';
import { difference } from './printed.mjs';
import { Terminal } from './terminal.mjs';

/** What `cargo` is for a reader of these pages: a way to run what has been built. */
const CARGO = `#!/bin/sh
case "$*" in
  "run --example "*) exec "${process.env.LOGOUTD_EXAMPLES}/$3" ;;
  "run -- "*) shift 2 ;;
  "run -q -- "*) shift 3 ;;
  build*) exit 0 ;;
  *) echo "a page may build and run; it says: cargo $*" >&2; exit 70 ;;
esac
exec logoutd "$@"
`;
const LOGOUTD = `#!/bin/sh
exec "${process.env.LOGOUTD_BIN}" "$@"
`;

/** Runs a page: `{ ran, notRun, complaints }`. What it prints is handed to `print`. */
export async function walk(path, work, root, print) {
  const page = read(path);
  const blocks = [...before(page), ...page.blocks.filter((block) => block.kind === 'sh')];
  const complaints = [...page.complaints];
  const marked = blocks.filter((block) => block.notRun);
  const runs = blocks.filter((block) => !block.notRun);
  if (runs.length > 0) {
    const reader = await sitDown(work, root, blocks, print);
    try {
      for (const block of runs) {
        const wrong = await reader.follow(block);
        if (!wrong) continue;
        complaints.push(`${block.line}: ${wrong}`);
        break; // what follows builds upon it
      }
    } finally {
      await reader.leave();
    }
  }
  return { ran: runs.length, notRun: marked.length, complaints };
}

/** The commands of another page that this one takes for done. */
function before(page) {
  if (!page.continues) return [];
  const other = read(join(dirname(page.path), page.continues.page));
  const blocks = other.blocks.filter((block) => block.kind === 'sh' && block.section === page.continues.section && !block.notRun);
  if (blocks.length === 0) throw new Error(`${page.path}: ${page.continues.page}#${page.continues.section} has no commands`);
  return blocks;
}

async function sitDown(work, root, blocks, print) {
  const [directory, files] = [join(work, 'reader'), join(work, 'files')];
  for (const made of [directory, files]) mkdirSync(made, { recursive: true });
  // The reader sits in a checkout, as far as the pages use one.
  symlinkSync(join(root, 'examples'), join(directory, 'examples'));
  writeFileSync(join(files, 'cargo'), CARGO);
  writeFileSync(join(files, 'logoutd'), LOGOUTD);
  for (const program of ['cargo', 'logoutd']) chmodSync(join(files, program), 0o755);
  const ports = await freePorts(blocks);
  const listen = `127.0.0.1:${ports.get('8080')}`;
  const environment = {
    PATH: `${files}:${process.env.PATH}`,
    HOME: directory,
    LANG: 'C.UTF-8',
    TZ: 'UTC',
    COLUMNS: '160',
    // Where a page says nothing it means port 8080, which may be taken here.
    LOGOUTD_HTTP__LISTEN: listen,
    LOGOUTD_URL: `http://${listen}`,
  };
  const open = () => new Terminal(directory, files, environment);
  const staying = new Map();
  const terminal = open();
  const stop = async (port) => {
    await staying.get(port)?.close();
    staying.delete(port);
  };

  async function follow(block) {
    const text = rename(block.text, ports);
    if (block.stops) await stop(block.stops);
    if (block.staysRunning) {
      await stop(block.staysRunning);
      staying.set(block.staysRunning, open());
      return staying.get(block.staysRunning).stay(text, ports.get(block.staysRunning));
    }
    const { printed, failures } = await terminal.run(text);
    const shown = restore(printed, ports, directory);
    print(`--- ${block.line}\n${block.text}\n---\n${shown}`);
    return verdict(block, failures, shown);
  }

  async function leave() {
    await terminal.close();
    for (const port of staying.keys()) await stop(port);
  }

  return { follow, leave };
}

function verdict(block, failures, printed) {
  const status = block.status ?? 0;
  const statuses = failures.length > 0 ? failures : [0];
  if (statuses.some((failure) => failure !== status)) return `exit status ${statuses.join(', ')}, not ${status}, after\n${printed}`;
  const shown = block.prints?.text ?? '';
  // `curl` is content with a refusal; a reader is not.
  const refusal = /urn:logoutd:problem:[\w-]+/.exec(printed)?.[0];
  if (refusal && !shown.includes(refusal)) return `refused:\n${printed}`;
  const differs = block.prints && difference(block.prints, printed);
  return differs ? `it prints\n${differs.got}\nand the page says\n${differs.expected}` : null;
}

const ADDRESS = /(?<=127\.0\.0\.1:)\d{4,5}\b/g;

async function freePorts(blocks) {
  const named = new Set(['8080', ...blocks.flatMap((block) => [block.staysRunning ?? [], block.text.match(ADDRESS) ?? []].flat())]);
  const servers = await Promise.all([...named].map(() => new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => resolve(server));
  })));
  const ports = new Map([...named].map((port, index) => [port, String(servers[index].address().port)]));
  await Promise.all(servers.map((server) => new Promise((resolve) => { server.close(resolve); })));
  return ports;
}

function rename(text, ports) {
  return text.replace(ADDRESS, (port) => ports.get(port));
}

/** What was printed, with the ports and the directory that the page speaks of. */
function restore(printed, ports, directory) {
  const back = new Map([...ports].map(([page, here]) => [here, page]));
  return printed.replace(ADDRESS, (port) => back.get(port) ?? port).replaceAll(directory, '.');
}
