// nginx and Caddy as processes, each with its recipe, of which only the addresses and the key are others.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually } from '../real/checks.js';

const START_MS = 10_000;
const STOP_MS = 5_000;

class Gateway {
  #child;

  constructor(home, recipes, { logoutd, application, key }) {
    Object.assign(this, { home, recipes, logoutd, application, key });
  }

  /** The recipe as it stands in examples/gateways, for here. */
  recipe(file, port) {
    const changes = [
      ['127.0.0.1:8080', this.logoutd], ['127.0.0.1:3000', this.application], ['127.0.0.1:8000', `127.0.0.1:${port}`],
      ['KEY-OF-THE-GATEWAY', this.key],
    ];
    return changes.reduce((text, [from, to]) => {
      if (!text.includes(from)) throw new Error(`${file} does not say ${from}`);
      return text.replaceAll(from, to);
    }, readFileSync(join(this.recipes, file), 'utf8'));
  }

  async launch(port, command, args) {
    this.url = `http://127.0.0.1:${port}`;
    const log = openSync(join(this.home, 'gateway.log'), 'a');
    const env = { PATH: process.env.PATH, HOME: this.home, XDG_DATA_HOME: this.home, XDG_CONFIG_HOME: this.home };
    const child = spawn(command, args, { cwd: this.home, env, stdio: ['ignore', log, log] });
    closeSync(log);
    this.#child = child;
    let ended;
    child.once('error', (error) => { ended = error.message; });
    child.once('exit', (code, signal) => { ended = `ended with ${signal ?? code}`; });
    if (child.pid !== undefined) writeFileSync(join(this.home, 'gateway.pid'), String(child.pid));
    await eventually(async () => {
      if (ended !== undefined) return;
      await fetch(this.url, { signal: AbortSignal.timeout(1_000) });
    }, START_MS);
    if (ended !== undefined) throw new Error(`the gateway did not start: ${ended}`);
  }

  async stop() {
    const child = this.#child;
    if (child?.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit');
      const impatience = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      child.kill('SIGTERM');
      await exited;
      clearTimeout(impatience);
    }
    rmSync(join(this.home, 'gateway.pid'), { force: true });
  }

  kill() {
    this.#child?.kill('SIGKILL');
  }

  log() {
    try {
      return readFileSync(join(this.home, 'gateway.log'), 'utf8').split('\n').slice(-40).join('\n');
    } catch {
      return '(no log)';
    }
  }
}

export class Nginx extends Gateway {
  async start(port) {
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
    mkdirSync(join(this.home, 'tmp'));
    // What a distribution's own nginx.conf is around the recipe, without root and its directories.
    const text = `daemon off;
master_process off;
worker_processes 1;
pid ${join(this.home, 'nginx.own')};
error_log stderr notice;
events {}
http {
    access_log off;
${temporary.map((name) => `    ${name}_temp_path ${join(this.home, 'tmp', name)};`).join('\n')}
${this.recipe('nginx.conf', port)}
}
`;
    const file = join(this.home, 'nginx.conf');
    writeFileSync(file, text);
    await this.launch(port, process.env.NGINX_BIN, ['-p', this.home, '-e', 'stderr', '-c', file]);
  }
}

export class Caddy extends Gateway {
  async start(port) {
    const file = join(this.home, 'Caddyfile');
    writeFileSync(file, `{\n\tadmin off\n}\n\n${this.recipe('Caddyfile', port)}`);
    await this.launch(port, process.env.CADDY_BIN, ['run', '--config', file, '--adapter', 'caddyfile']);
  }
}
