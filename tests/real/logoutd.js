// logoutd as a process, and calls to its API.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { eventually } from './checks.js';
import { freePort } from './listen.js';

const START_MS = 20_000;
const STOP_MS = 15_000;
const REQUEST_MS = 15_000;
const STARTS_MAX = 3;

/** A logoutd of its own: a database in `directory`, an administrator's token, a loopback port. */
export class Logoutd {
  #binary;
  #directory;
  #child;
  #settings;
  #adminToken = randomBytes(32).toString('base64url');

  /** `settings` are variables of its environment, such as `LOGOUTD_KEYS__CACHE_S`. */
  constructor(binary, directory, settings = {}) {
    this.#binary = binary;
    this.#directory = directory;
    this.#settings = settings;
  }

  /** Starts it on a free port, or, once it has one, on the same port again. */
  async start() {
    const fixed = this.url !== undefined;
    for (let starts = 1; ; starts += 1) {
      if (!fixed) this.url = `http://127.0.0.1:${await freePort()}`;
      try {
        await this.#startOnce();
        return;
      } catch (error) {
        // Another process may have taken the port between our choice and its start.
        await this.stop();
        if (fixed || starts === STARTS_MAX) throw error;
      }
    }
  }

  async #startOnce() {
    const log = openSync(this.#path('logoutd.log'), 'a');
    const child = spawn(
      this.#binary,
      ['serve', '--dev', '--listen', new URL(this.url).host, '--database-url', `sqlite://${this.#path('logoutd.db')}`],
      {
        cwd: this.#directory,
        env: { PATH: process.env.PATH, HOME: this.#directory, LOGOUTD_ADMIN_TOKEN: this.#adminToken, ...this.#settings },
        stdio: ['ignore', log, log],
      },
    );
    closeSync(log);
    this.#child = child;
    let ended;
    child.once('error', (error) => { ended = error.message; });
    child.once('exit', (code, signal) => { ended = `ended with ${signal ?? code}`; });
    if (child.pid !== undefined) writeFileSync(this.#path('logoutd.pid'), String(child.pid));
    await eventually(async () => {
      if (ended !== undefined) return;
      const response = await fetch(`${this.url}/readyz`, { signal: AbortSignal.timeout(1_000) });
      if (!response.ok) throw new Error(`logoutd is not ready: /readyz answers ${response.status}`);
    }, START_MS);
    if (ended !== undefined) throw new Error(`logoutd did not start: ${ended}`);
  }

  /** Asks it to stop and waits until it is gone. */
  async stop() {
    const child = this.#child;
    this.#child = undefined;
    if (child?.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit');
      const impatience = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      child.kill('SIGTERM');
      await exited;
      clearTimeout(impatience);
    }
    rmSync(this.#path('logoutd.pid'), { force: true });
  }

  /** Ends it without a word: for a test that is itself being ended. */
  kill() {
    this.#child?.kill('SIGKILL');
  }

  /** The last lines it wrote. */
  log(lines = 40) {
    try {
      return readFileSync(this.#path('logoutd.log'), 'utf8').split('\n').slice(-lines).join('\n');
    } catch {
      return '(no log)';
    }
  }

  /** The keys it signs logout tokens with, as everybody may read them. */
  async keys(issuer) {
    const response = await fetch(`${this.url}/${issuer}/jwks`, { signal: AbortSignal.timeout(REQUEST_MS) });
    if (!response.ok) throw new Error(`${issuer}/jwks answers ${response.status}`);
    return response.json();
  }

  /** One call with `token` (the administrator's unless given): {status, body}. */
  async call(method, path, body, { token = this.#adminToken, headers = {} } = {}) {
    const form = body instanceof URLSearchParams;
    const response = await fetch(new URL(path, this.url), {
      method,
      signal: AbortSignal.timeout(REQUEST_MS),
      headers: {
        authorization: `Bearer ${token}`,
        ...(body !== undefined && !form && { 'content-type': 'application/json' }),
        ...headers,
      },
      body: body === undefined || form ? body : JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, body: parsed(text) };
  }

  /** The same, and only success will do. */
  async ask(method, path, body, options) {
    const answer = await this.call(method, path, body, options);
    if (answer.status >= 300) throw new Error(`${method} ${path} answers ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer;
  }

  #path(name) {
    return join(this.#directory, name);
  }
}

// A proxy on the way may answer with something else than JSON.
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
