// The test: every scenario side by side, each with a logoutd, an identity provider and applications of its own.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { checksOf, conclude, fail, failed, Stopped } from './checks.js';
import { Logoutd } from './logoutd.js';
import { relayed } from './relayed.js';
import { reported } from './reported.js';
import { CACHE_S, signed } from './signed.js';
import { told } from './told.js';

const WHOLE_TEST_MS = 200_000;
const SCENARIOS = { reported, relayed, told, signed };
const SETTINGS = { signed: { LOGOUTD_KEYS__CACHE_S: String(CACHE_S), LOGOUTD_SCHEDULE__KEYS: '* * * * * *' } };

const running = [];
const overall = setTimeout(() => abandon('everything ends in time', `not within ${WHOLE_TEST_MS} ms`), WHOLE_TEST_MS);
process.on('SIGTERM', () => abandon('nobody ends the test', 'SIGTERM'));
process.on('SIGINT', () => abandon('nobody ends the test', 'SIGINT'));

// The way out of a test that cannot go on.
function abandon(sentence, why) {
  fail(sentence, why);
  for (const { name, logoutd } of running) {
    process.stderr.write(`--- logoutd of ${name}\n${logoutd.log()}\n`);
    logoutd.kill();
  }
  process.exit(conclude());
}

// A name on the command line runs that scenario alone.
const [directory, ...names] = process.argv.slice(2);
const chosen = Object.entries(SCENARIOS).filter(([name]) => names.length === 0 || names.includes(name));
await Promise.all(chosen.map(([name, scenario]) => run(name, scenario)));
clearTimeout(overall);
process.exit(conclude());

async function run(name, scenario) {
  const home = join(directory, name);
  mkdirSync(home);
  const logoutd = new Logoutd(process.env.LOGOUTD_BIN, home, SETTINGS[name]);
  const doors = [];
  running.push({ name, logoutd });
  const before = failed;
  try {
    await logoutd.start();
    await scenario(logoutd, doors, checksOf(name));
  } catch (error) {
    if (!(error instanceof Stopped)) fail(`${name}: it runs to its end`, error.stack);
  }
  await logoutd.stop();
  for (const door of doors) door.close();
  if (failed > before) process.stderr.write(`--- logoutd of ${name}\n${logoutd.log()}\n`);
}
