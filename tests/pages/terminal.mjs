// A shell that runs the blocks of a page one after the other, and keeps what they set.

import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

/** What one block may take. */
const PATIENCE_MS = 60_000;
let number = 0;

export class Terminal {
  /** Opens a shell in a directory. `files` is where its notes are kept, out of the reader's sight. */
  constructor(directory, files, environment) {
    number += 1;
    this.name = join(files, `terminal-${number}`);
    this.blocks = 0;
    this.shell = spawn('bash', ['--noprofile', '--norc'], { cwd: directory, env: environment, stdio: ['pipe', 'pipe', 'ignore'], detached: true });
    this.over = new Promise((resolve) => { this.shell.once('exit', resolve); });
    this.heard = '';
    this.shell.stdout.on('data', (data) => { this.heard += data; });
    this.shell.stdin.on('error', () => {}); // it ended; `over` says so
    writeFileSync(`${this.name}.pid`, String(this.shell.pid));
  }

  /** Begins to run a block: `{ printed() }`. */
  begin(text) {
    this.blocks += 1;
    const [script, output, failures] = ['sh', 'out', 'failures'].map((what) => `${this.name}-${this.blocks}.${what}`);
    writeFileSync(script, `${text}\n`);
    closeSync(openSync(failures, 'w'));
    // Every command that fails is noted, and not the last alone.
    this.shell.stdin.write(`set -E; trap 'echo $? >> ${failures}' ERR; . ${script} > ${output} 2>&1 < /dev/null; trap - ERR; echo "done ${this.blocks}"\n`);
    const printed = () => { try { return readFileSync(output, 'utf8'); } catch { return ''; } };
    return { printed, failures: () => readFileSync(failures, 'utf8').split('\n').filter(Boolean).map(Number) };
  }

  /** Runs a block to its end: `{ printed, failures }`, the exit statuses that were not 0. */
  async run(text) {
    const block = this.begin(text);
    const done = `done ${this.blocks}\n`;
    const ended = this.over.then(() => 'over');
    for (const deadline = Date.now() + PATIENCE_MS; !this.heard.includes(done); ) {
      if (Date.now() > deadline) return { printed: block.printed(), failures: ['it does not end'] };
      if (await Promise.race([ended, pause(10)]) === 'over') return { printed: block.printed(), failures: ['it ends the shell'] };
    }
    return { printed: block.printed(), failures: block.failures() };
  }

  /** Begins a block that stays, and waits until it listens. None, or what it printed instead. */
  async stay(text, port) {
    const block = this.begin(text);
    const done = `done ${this.blocks}\n`;
    for (const deadline = Date.now() + PATIENCE_MS; Date.now() < deadline; await pause(20)) {
      if (this.heard.includes(done) || this.shell.exitCode !== null) return `it does not stay:\n${block.printed()}`;
      if (await listens(port)) return null;
    }
    return `nobody listens at ${port}:\n${block.printed()}`;
  }

  /** Interrupts what runs, as a person does, and closes the shell. */
  async close() {
    this.signal('SIGINT');
    this.shell.stdin.end();
    for (const signal of ['SIGTERM', 'SIGKILL']) {
      if (await Promise.race([this.over.then(() => true), pause(15_000)])) break;
      this.signal(signal);
    }
    await this.over;
    rmSync(`${this.name}.pid`, { force: true });
  }

  signal(name) {
    try { process.kill(-this.shell.pid, name); } catch { /* it is over */ }
  }
}

function listens(port) {
  return new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port });
    socket.once('connect', () => { socket.destroy(); resolve(true); });
    socket.once('error', () => resolve(false));
  });
}
