// Checks: each scenario runs one named check after another, prints one line for each, and counts. Scenarios run side by side.

import { setTimeout as pause } from 'node:timers/promises';

let passed = 0;

/** How many checks have failed so far. */
export let failed = 0;

/** The checks of one scenario. */
export function checksOf(scenario) {
  /** Runs `body` and says whether it held; a check that throws is a failed one, and the next still runs. */
  async function check(sentence, body) {
    try {
      await body();
      passed += 1;
      process.stdout.write(`ok      ${scenario}: ${sentence}\n`);
      return true;
    } catch (error) {
      fail(`${scenario}: ${sentence}`, error);
      return false;
    }
  }

  /** A check without which the others mean nothing: throws `Stopped` when it fails. */
  async function must(sentence, body) {
    if (!await check(sentence, body)) throw new Stopped(sentence);
  }

  return { check, must };
}

/** Says that a `must` failed, which is counted already. */
export class Stopped extends Error {}

/** Counts a failure that happened outside any check. */
export function fail(sentence, error) {
  failed += 1;
  const why = String(error?.message ?? error).trim().replaceAll('\n', '\n        ');
  process.stdout.write(`FAILED  ${sentence}\n        ${why}\n`);
}

/** Prints the last line and returns the exit status. */
export function conclude() {
  process.stdout.write(`${passed} passed, ${failed} failed\n`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

/** Asks again until `probe` no longer throws; past the deadline its last complaint is the error. */
export async function eventually(probe, deadlineMs = 10_000) {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    try {
      return await probe();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await pause(50);
    }
  }
}
