// How a provider reports to logoutd: its own events become three calls, and nobody waits for them.
//
//   authorization.success  a person signed in, or went on to one more application  PUT  …/sessions/{sid}
//   refresh_token.saved    an application was given a refresh token                POST …/refresh-tokens
//
// A login never waits for logoutd and never fails because of it. Reports wait in the outbox, in
// order, since a token can only be reported for a session that is known, and go out when logoutd is
// there again. A provider in production keeps its outbox in its own database.

import { createHash } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';

const OUTBOX_MAX = 10_000;
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1_000;

/** Reports what happens at `provider` through `call`, a function (method, path, body) -> {status, body}. */
export function reportFrom(provider, call) {
  const outbox = new Outbox(call);

  // An event is emitted in the middle of the sign-in, and an exception here would fail it.
  const report = (event, write) => provider.on(event, (subject) => {
    try {
      outbox.add(...write(subject));
    } catch (error) {
      outbox.refused.push({ event, answer: String(error) });
    }
  });

  report('authorization.success', ({ oidc: { session, client } }) => ['PUT', `sessions/${encodeURIComponent(session.uid)}`, {
    sub: session.accountId,
    started_at: instant(session.loginTs),
    ...(session.exp && { expires_at: instant(session.exp) }),
    // This provider shows every application a `sid` of its own, so each participant brings its own.
    participants: [{
      client_id: client.clientId,
      sid: session.sidFor(client.clientId),
      sub: session.accountId,
      joined_at: instant(now()),
    }],
  }]);

  report('refresh_token.saved', (token) => ['POST', 'refresh-tokens', {
    sid: token.sessionUid,
    client_id: token.clientId,
    token_sha256: createHash('sha256').update(token.jti).digest('base64url'),
    issued_at: instant(now()),
    expires_at: instant(now() + token.expiration),
    offline_access: token.scopes.has('offline_access'),
    scope: token.scope,
  }]);

  return outbox;
}

/** Reports on their way: one at a time, oldest first, each until logoutd has answered it. */
class Outbox {
  #call;
  #waiting = [];
  #sending = false;
  #stopped = new AbortController();

  /** What logoutd would not take, and what it said. */
  refused = [];

  constructor(call) {
    this.#call = call;
  }

  /** How many reports are not answered yet. */
  get waiting() {
    return this.#waiting.length;
  }

  /** Takes a report and returns at once. */
  add(method, path, body) {
    if (this.#waiting.length === OUTBOX_MAX) this.refused.push({ ...this.#waiting.shift(), answer: 'outbox full' });
    this.#waiting.push({ method, path, body });
    if (!this.#sending) this.#send().catch((error) => this.refused.push({ path, answer: String(error) }));
  }

  /** Gives up what is still waiting. */
  stop() {
    this.#stopped.abort();
    this.#waiting.length = 0;
  }

  async #send() {
    this.#sending = true;
    let delayMs = RETRY_FIRST_MS;
    try {
      while (this.#waiting.length > 0) {
        const report = this.#waiting[0];
        const answer = await this.#call(report.method, report.path, report.body).catch(() => undefined);
        if (this.#stopped.signal.aborted) return;
        if (answer === undefined || answer.status >= 500 || answer.status === 429) {
          await pause(delayMs, undefined, { signal: this.#stopped.signal });
          delayMs = Math.min(2 * delayMs, RETRY_MAX_MS);
          continue;
        }
        // Every other refusal would be the same the next time.
        if (answer.status >= 300) this.refused.push({ ...report, answer });
        delayMs = RETRY_FIRST_MS;
        if (this.#waiting[0] === report) this.#waiting.shift();
      }
    } catch (error) {
      if (!this.#stopped.signal.aborted) throw error;
    } finally {
      this.#sending = false;
    }
  }
}

function now() {
  return Date.now() / 1000;
}

function instant(seconds) {
  return new Date(seconds * 1000).toISOString();
}
