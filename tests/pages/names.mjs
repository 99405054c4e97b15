// Whether what a page names is there: links and their anchors, routes, metrics, settings, commands and their options.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join, relative } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

import { read } from './page.mjs';

const ADMIN = 'an-administrator-token-of-32-characters';

/** Every check of names: `[what, complaints]`. */
export async function checkNames(paths, work, root) {
  const pages = paths.map((path) => read(path));
  const place = mkdtempSync(join(work, 'names-'));
  const { openapi, metrics } = await ask(place);
  const settings = settingsOf(place);
  const within = (find) => pages.flatMap((page) => find(page).map((complaint) => `${relative(root, page.path)}: ${complaint}`));
  return [
    ['every link leads somewhere', within(links)],
    ['every route is one of the OpenAPI document', within((page) => routes(page, Object.keys(openapi.paths)))],
    ['every metric is one that is scraped', within((page) => known(page, METRIC, metricsOf(metrics, root)))],
    ['every setting is one that check-config shows', within((page) => unknownSettings(page, settings, members(openapi)))],
    ['every variable is read', within((page) => variables(page, settings, root))],
    ['every alert is in the runbook', alerts(root)],
    ['every test is there', within((page) => tests(page, root))],
    ['every command and option is one that --help shows', within(commands)],
  ];
}

// What a running server says of itself.

async function ask(place) {
  const port = await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => { const at = server.address().port; server.close(() => resolve(at)); });
  });
  const base = `http://127.0.0.1:${port}`;
  const environment = { PATH: process.env.PATH, LOGOUTD_ADMIN_TOKEN: ADMIN };
  const server = spawn(process.env.LOGOUTD_BIN, ['serve', '--dev', '--listen', `127.0.0.1:${port}`], { cwd: place, env: environment, stdio: 'ignore' });
  try {
    const get = async (path) => (await fetch(base + path, { headers: { Authorization: `Bearer ${ADMIN}` } })).text();
    for (let left = 1000; ; left -= 1) {
      const ready = await fetch(`${base}/readyz`).then((got) => got.ok).catch(() => false);
      if (ready) break;
      if (left === 0 || server.exitCode !== null) throw new Error('logoutd does not begin to serve');
      await pause(20);
    }
    return { openapi: JSON.parse(await get('/openapi.json')), metrics: await get('/metrics') };
  } finally {
    server.kill('SIGTERM');
    await new Promise((resolve) => { if (server.exitCode === null) server.once('exit', resolve); else resolve(); });
  }
}

function settingsOf(place) {
  const shown = execFileSync(process.env.LOGOUTD_BIN, ['check-config'], { cwd: place, env: { PATH: process.env.PATH }, encoding: 'utf8' });
  return new Set([...shown.matchAll(/^ +([a-z0-9_.]+) = /gm)].map(([, name]) => name));
}

// Links.

function links(page) {
  return [...prose(page).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target]) => {
    if (/^[a-z]+:/.test(target)) return [];
    const [file, section] = target.split('#');
    const path = file === '' ? page.path : join(dirname(page.path), file);
    if (!existsSync(path)) return [`${target} leads nowhere`];
    if (section === undefined || !path.endsWith('.md')) return [];
    return read(path).headings.includes(section) ? [] : [`${target}: there is no such section`];
  });
}

/** The page without its blocks, where a parenthesis after a bracket is no link. */
function prose(page) {
  return page.text.replace(/^\s*```[\s\S]*?^\s*```$/gm, '');
}

// Routes.

const ROOTS = /^(v1|healthz|readyz|metrics|openapi\.json|\{iss(uer)?\}|main|kc)(\/|$)/;

function routes(page, templates) {
  const written = [...page.text.matchAll(/(?:(?<!\/)…|(?<![\w.:/}…*-]))(\/(?:[\w{}.…~-]+\/)*[\w{}.…~-]+)(?=[\s`"'?,;:)|]|$)/gm)];
  return [...new Set(written.flatMap(([whole, path]) => (whole.startsWith('…') ? [`…${path}`] : [path])))]
    .filter((path) => path.startsWith('…/') || ROOTS.test(path.slice(1)))
    .filter((path) => !templates.some((template) => leadsTo(path.replace(/[.,]$/, ''), template)))
    .map((path) => `there is no route ${path}`);
}

/** Whether a path as a page writes it, abbreviated or with names filled in, is one of this template. */
function leadsTo(path, template) {
  const parts = path.split('/').filter(Boolean);
  const theirs = template.split('/').filter(Boolean);
  const abbreviated = parts[0] === '…';
  if (abbreviated) parts.shift();
  // `/v1/…`: whatever is below.
  if (parts.at(-1) === '…') {
    parts.pop();
    theirs.splice(parts.length);
  }
  if (abbreviated ? parts.length > theirs.length : parts.length !== theirs.length) return false;
  return parts.every((part, index) => {
    const their = theirs[index + theirs.length - parts.length];
    return their.startsWith('{') ? true : part === their;
  });
}

// Metrics.

const METRIC = /\blogoutd_[a-z][a-z0-9_]*/g;
/** What else begins like a metric. */
const NO_METRICS = /^logoutd_(bin|examples)$/;

function metricsOf(scrape, root) {
  const described = [...scrape.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
  // One that nothing has happened to yet may be missing from a scrape; its name then stands where all of them do.
  const written = sources(join(root, 'src/observe')).flatMap((text) => [...text.matchAll(/"(logoutd_[a-z0-9_]+)"/g)].map(([, name]) => name));
  return new Set([...described, ...written].flatMap((name) => [name, `${name}_bucket`, `${name}_sum`, `${name}_count`]));
}

function known(page, form, names) {
  const said = new Set(page.text.match(form) ?? []);
  return [...said].filter((name) => !names.has(name) && !NO_METRICS.test(name)).map((name) => `there is no ${name}`);
}

// Settings, and what environment variables they are.

/** Dotted paths of what can be registered: `delivery.claims`, `tokens.rotate`. */
function members(openapi) {
  const found = new Set();
  const schemas = openapi.components.schemas;
  for (const schema of Object.values(schemas)) {
    for (const [name, property] of Object.entries(schema.properties ?? {})) {
      const reference = JSON.stringify(property).match(/#\/components\/schemas\/(\w+)/)?.[1];
      for (const inner of Object.keys(schemas[reference]?.properties ?? {})) found.add(`${name}.${inner}`);
    }
  }
  return found;
}

function unknownSettings(page, settings, registered) {
  const sections = new Set([...settings].filter((name) => name.includes('.')).map((name) => name.split('.')[0]));
  const said = [...prose(page).matchAll(/`([a-z_]+)\.([a-z0-9_]+)`/g)].filter(([, section]) => sections.has(section) || section === 'tokens');
  const files = page.blocks.filter((block) => block.kind === 'toml').flatMap((block) => settingsIn(block.text));
  const written = files.filter((name) => !settings.has(name)).map((name) => `there is no setting ${name}`);
  return written.concat(said.map(([, section, name]) => `${section}.${name}`)
    .filter((name) => !settings.has(name) && !registered.has(name) && !existsSync(join(dirname(page.path), name)))
    .map((name) => `there is no setting ${name}`));
}

/** What a file of settings sets, but for what has names of the reader's own. */
function settingsIn(text) {
  let section = [];
  return text.split('\n').flatMap((line) => {
    const [, table] = /^\[([\w.-]+)\]/.exec(line) ?? [];
    const [, key] = /^#?([a-z_]+) = /.exec(line) ?? [];
    if (table) section = table.split('.');
    return key && !['check', 'issuers'].includes(section[0]) ? [[...section, key].join('.')] : [];
  });
}

function variables(page, settings, root) {
  const code = sources(join(root, 'src')).join('\n');
  return [...new Set(page.text.match(/\bLOGOUTD_[A-Z][A-Z0-9_]*[A-Z0-9]/g) ?? [])]
    .filter((name) => !settings.has(name.slice('LOGOUTD_'.length).toLowerCase().replaceAll('__', '.')) && !code.includes(name) && !/_TEST_|_BIN$/.test(name))
    .filter((name) => !page.blocks.some((block) => block.status === 1 && block.text.includes(name)))
    .map((name) => `nobody reads ${name}`);
}

function sources(directory) {
  return readdirSync(directory, { recursive: true }).filter((name) => name.endsWith('.rs')).map((name) => readFileSync(join(directory, name), 'utf8'));
}

// Alerts: whoever gets one finds it.

function alerts(root) {
  const runbook = readFileSync(join(root, 'examples/operating/README.md'), 'utf8');
  const rules = readFileSync(join(root, 'examples/observability/alerts.yml'), 'utf8');
  const missing = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name).filter((name) => !runbook.includes(`\`${name}\``));
  return missing.map((name) => `examples/operating/README.md: nothing about ${name}`);
}

// Tests, as `file::name` below tests/it, or `src/room::name`.

function tests(page, root) {
  const said = [...prose(page).matchAll(/`((?:src\/)?[a-z_]+)::([a-z_0-9]+)`/g)];
  return said.filter(([, file, name]) => {
    const places = file.startsWith('src/') ? sources(join(root, file)) : [join(root, 'tests/it', `${file}.rs`)].filter(existsSync).map((path) => readFileSync(path, 'utf8'));
    return !places.some((text) => new RegExp(`fn ${name}\\(`).test(text));
  }).map(([whole]) => `there is no test ${whole}`);
}

// Commands.

const helped = new Map();

/** What `--help` says of a command; none where there is no such command. */
function help(words) {
  const name = words.join(' ');
  if (!helped.has(name)) {
    let said = null;
    try { said = execFileSync(process.env.LOGOUTD_BIN, [...words, '--help'], { encoding: 'utf8', env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'ignore'] }); } catch { /* none */ }
    helped.set(name, said);
  }
  return helped.get(name);
}

/** The sub-commands that a help text lists. */
const subcommands = (text) => [...(/^Commands:\n((?: .*\n|\n)*)/m.exec(text)?.[1] ?? '').matchAll(/^ {2}([a-z][\w-]*)/gm)].map(([, name]) => name);

function commands(page) {
  const shown = page.blocks.filter((block) => block.kind === 'sh').flatMap((block) => block.text.replace(/\\\n\s*/g, ' ').split(/\n|[|;&]|\$\(/));
  const inline = [...prose(page).matchAll(/`([^`]+)`/g)].map(([, code]) => code.replace(/\s+/g, ' '));
  return [...new Set([...shown, ...inline].flatMap(complain))];
}

function complain(line) {
  const called = /^\s*(?:[A-Z_]+=\S* )*(?:logoutd|cargo run (?:-q )?--) ([a-z].*)$/.exec(line.replace(/\s#.*$/, ''));
  if (!called) return [];
  const words = called[1].replace(/\s[>&|).].*$/, '').split(/\s+/).map((word) => word.replace(/[)"']+$/, ''));
  const path = [];
  for (let text = help([]); subcommands(text).length > 0; text = help(path)) {
    const next = words[path.length];
    // A page may speak of a family of commands.
    if (next === undefined || next === '…' || /^--?(help|h|version)$/.test(next)) break;
    if (!subcommands(text).includes(next)) return [`there is no command: ${words.slice(0, path.length + 1).join(' ')}`];
    path.push(next);
  }
  const options = words.slice(path.length).filter((word) => /^--[a-z]/.test(word)).map((word) => word.split('=')[0]);
  return options.filter((option) => !new RegExp(`(^|[\\s,])${option}\\b`).test(help(path))).map((option) => `${path.join(' ')} has no option ${option}`);
}
