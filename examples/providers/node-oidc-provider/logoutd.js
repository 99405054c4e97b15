// Reports what happens at an oidc-provider to logoutd. One file, no dependencies, Node.js 20.3 or later.
//
//   const logoutd = attachLogoutd(provider, { url: 'https://logoutd.example', issuer: 'main', token });
//   …
//   await logoutd.close();       // at shutdown: sends what still waits, for five seconds at most
//
//   authorization.success   a person signed in, or went on to one more application    session, participant
//   session.saved           the provider gave a session more time                     session
//   refresh_token.consumed  a refresh token was used up                               (said with its successor)
//   refresh_token.saved     an application was given a refresh token, or the next one refresh_token, rotated
//   session.destroyed       a session ended at the provider                           logout of the session
//   end_session.success     a person left one application and stays signed in         logout of the participation
//   grant.revoked           a refresh token was used twice (at the token endpoint)    logout of the participation
//
// A sign-in never waits for logoutd and never fails because of it: an event becomes an entry of a queue and that is all. The queue is sent in
// order, one call at a time, and kept while logoutd is away, as long as this process lives. It is bounded: what no longer fits is counted, and
// said through `observe`. Refresh tokens leave this process as SHA-256 digests.

import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';

/** Reports in one call; logoutd takes up to 1,000. */
const BATCH_MAX = 100;
const RETRY_FIRST_MS = 100;
/** Used tokens that are remembered at once. */
const USED_MAX = 1_000;
/** The longest that `Retry-After` is obeyed. */
const RETRY_AFTER_MAX_MS = 60_000;
/** Answers that would be the same the next time; every other failure is tried again. */
const REFUSALS = new Set([400, 409, 413, 422]);

/**
 * Reports to logoutd whatever happens at `provider` from now on.
 *
 * @param provider an instance of oidc-provider's `Provider`
 * @param {object} options
 * @param {string} options.url where logoutd answers
 * @param {string} options.issuer the short id under which the provider is registered there
 * @param {string | (() => string)} options.token an API token with the role `provider`, or what returns it at each call
 * @param {(event: object) => void} [options.observe] hears of `{type: 'sent' | 'refused' | 'dropped' | 'away' | 'back', …}`
 * @param {(ctx, accountId: string, client) => string | Promise<string>} [options.pairwiseIdentifier] what the provider's own configuration has under
 *   this name; needed for clients with `subject_type: pairwise`, which are not reported without it
 * @param {(ctx) => {id?: string, label?: string, ip?: string, user_agent?: string}} [options.device] what to say of the browser; nothing unless given
 * @param {(session) => string} [options.reason] why a session was destroyed, a reason of logoutd's; `user_logout` unless it says otherwise
 * @param {number} [options.queueMax] how many entries wait at most
 * @param {number} [options.timeoutMs] how long one call may take
 * @param {number} [options.retryMaxMs] the longest pause between two tries
 */
export function attachLogoutd(provider, options) {
  const queue = new Queue(options);
  const on = (event, write) => provider.on(event, (...subjects) => {
    try {
      write(...subjects);
    } catch (error) {
      // Thrown on, it would fail what the provider is in the middle of.
      queue.refuse({ event }, error);
    }
  });

  on('authorization.success', (ctx) => {
    const { session, client } = ctx.oidc;
    const joinedAt = now();
    const login = { ...sessionOf(session), ...(options.device && { device: options.device(ctx) }) };
    const participant = { client_id: client.clientId, sid: session.sidFor(client.clientId), joined_at: instant(joinedAt) };
    queue.add(report(whatClientSaw(ctx, session.accountId, client, options).then((sub) => (
      { ...login, participants: [{ ...participant, sub }] }
    ))));
  });

  on('session.saved', (session) => {
    if (session.accountId) queue.add(report(sessionOf(session)));
  });

  // What was used up, by its grant, until its successor is saved a moment later.
  const used = new Map();
  on('refresh_token.consumed', (token) => {
    used.set(token.grantId, digest(token));
    // Of those whose successor never came.
    if (used.size > USED_MAX) used.delete(used.keys().next().value);
  });

  on('refresh_token.saved', (token) => {
    const predecessor = token.rotations ? used.get(token.grantId) : undefined;
    used.delete(token.grantId);
    const life = { client_id: token.clientId, issued_at: instant(now()), expires_at: instant(now() + token.remainingTTL) };
    const registration = report({
      op: 'refresh_token',
      // Of a grant that was made without a browser, as by CIBA, only the person is known.
      ...(token.sessionUid ? { sid: token.sessionUid } : { sub: token.accountId }),
      ...life,
      token_sha256: digest(token),
      offline_access: token.scopes.has('offline_access'),
      ...(token.scope && { scope: token.scope }),
    });
    if (!predecessor) queue.add(registration);
    // Where logoutd has never heard of the predecessor, the successor begins a family.
    else queue.add({ ...report({ op: 'rotated', ...life, token_sha256: predecessor, successor_sha256: digest(token) }), otherwise: registration });
  });

  on('session.destroyed', (session) => {
    if (session.accountId) queue.add(logout({ sid: session.uid }, options.reason?.(session) ?? 'user_logout'));
  });

  on('end_session.success', (ctx) => {
    const { session, params, entities: { Client: client } } = ctx.oidc;
    // With `logout` the whole session was destroyed, which is told already.
    if (!params.logout && client && session.accountId) queue.add(logout({ sid: session.uid, client_id: client.clientId }, 'user_logout'));
  });

  on('grant.revoked', (ctx) => {
    const { route, entities: { RefreshToken: token } } = ctx.oidc;
    // At the token endpoint oidc-provider revokes a grant for one cause alone: what may be used once was used again.
    if (route !== 'token' || !token) return;
    const whose = token.sessionUid ? { sid: token.sessionUid } : { sub: token.accountId };
    queue.add(logout({ ...whose, client_id: token.clientId }, 'token_reuse'));
  });

  return queue;
}

function digest(token) {
  return createHash('sha256').update(token.jti).digest('base64url');
}

function sessionOf(session) {
  return {
    op: 'session',
    sid: session.uid,
    sub: session.accountId,
    started_at: instant(session.loginTs),
    ...(session.exp && { expires_at: instant(session.exp) }),
  };
}

/** The `sub` that an application knows a person by. */
async function whatClientSaw(ctx, accountId, client, { pairwiseIdentifier }) {
  if (client.subjectType !== 'pairwise') return accountId;
  if (!pairwiseIdentifier) throw new Error(`${client.clientId} is pairwise, and attachLogoutd was given no pairwiseIdentifier`);
  return pairwiseIdentifier(ctx, accountId, client);
}

function report(body) {
  return { path: 'reports', body };
}

function logout(target, reason) {
  // The key makes a repetition harmless: a try whose answer was lost is answered with its receipt.
  return { path: 'logouts', body: { target, reason, occurred_at: instant(now()) }, key: randomUUID() };
}

/** What waits for logoutd: oldest first, each entry until it is answered. */
class Queue {
  #base;
  #token;
  #observe;
  #queueMax;
  #timeoutMs;
  #retryMaxMs;
  #waiting = [];
  /** What is being sent; it is tried until it is answered, and not dropped for what comes later. */
  #inHand = [];
  #sending;
  #away = false;
  #givenUp = new AbortController();
  #counts = { sent: 0, refused: 0, dropped: 0, failures: 0 };

  constructor({ url, issuer, token, observe = () => {}, queueMax = 10_000, timeoutMs = 10_000, retryMaxMs = 30_000 }) {
    this.#base = `${url.replace(/\/+$/, '')}/v1/issuers/${encodeURIComponent(issuer)}`;
    this.#token = typeof token === 'function' ? token : () => token;
    this.#observe = observe;
    this.#queueMax = queueMax;
    this.#timeoutMs = timeoutMs;
    this.#retryMaxMs = retryMaxMs;
  }

  /** How many entries are not answered yet. */
  get waiting() {
    return this.#waiting.length + this.#inHand.length;
  }

  /** Numbers for a metrics endpoint: entries sent, refused and dropped, failed calls, entries waiting, and the age of the oldest. */
  get metrics() {
    const oldest = this.#inHand[0] ?? this.#waiting[0];
    return { ...this.#counts, waiting: this.waiting, oldest_waiting_seconds: oldest ? now() - oldest.at : 0 };
  }

  /** Takes an entry and returns at once. */
  add(entry) {
    // A body still to come that fails is found when it is sent.
    if (entry.body instanceof Promise) entry.body.catch(() => {});
    if (this.#givenUp.signal.aborted) {
      this.#drop(entry);
      return;
    }
    if (this.#waiting.length >= this.#queueMax) this.#drop(this.#waiting.splice(this.#leastMissed(), 1)[0]);
    this.#waiting.push({ ...entry, at: now() });
    this.#sending ??= this.#send();
  }

  /** Counts what logoutd will not take, and says why. */
  refuse(entry, why) {
    this.#counts.refused += 1;
    this.#say({ type: 'refused', entry: { path: entry.path, event: entry.event, body: entry.body }, why });
  }

  /** Sends what waits, for `timeoutMs` at most, and drops the rest; answers how many were left. */
  async close({ timeoutMs = 5_000 } = {}) {
    const { signal } = this.#givenUp;
    const impatience = setTimeout(() => this.#givenUp.abort(), timeoutMs);
    await Promise.race([this.#sending, new Promise((resolve) => { signal.addEventListener('abort', resolve); })]);
    clearTimeout(impatience);
    this.#givenUp.abort();
    const left = [...this.#inHand, ...this.#waiting];
    this.#inHand = [];
    this.#waiting = [];
    for (const entry of left) this.#drop(entry);
    return left.length;
  }

  // The oldest report, since a session is reported again and again; a logout only when nothing else is left.
  #leastMissed() {
    return Math.max(0, this.#waiting.findIndex((entry) => entry.path === 'reports'));
  }

  #drop(entry) {
    this.#counts.dropped += 1;
    this.#say({ type: 'dropped', entry: { path: entry.path, body: entry.body }, dropped: this.#counts.dropped });
  }

  #say(event) {
    try {
      this.#observe(event);
    } catch {
      // Whoever listens is not allowed to stop the queue.
    }
  }

  async #send() {
    let delayMs = RETRY_FIRST_MS;
    while (!this.#givenUp.signal.aborted) {
      if (this.#inHand.length === 0) this.#inHand = await this.#next();
      if (this.#inHand.length === 0) {
        if (this.#waiting.length > 0) continue;
        // Not a moment later: whatever is added from now on begins anew.
        this.#sending = undefined;
        return;
      }
      const answer = await this.#call(this.#inHand).catch((error) => ({ error }));
      // Whoever gave up has counted what is in hand.
      if (this.#givenUp.signal.aborted) return;
      if (this.#settle(answer)) {
        delayMs = RETRY_FIRST_MS;
        continue;
      }
      // Half of it at random: many processes that lost the same logoutd do not come back as one.
      const waitMs = Math.max(delayMs * (0.5 + Math.random() / 2), answer.retryAfterMs ?? 0);
      await pause(waitMs, undefined, { signal: this.#givenUp.signal, ref: false }).catch(() => {});
      delayMs = Math.min(2 * delayMs, this.#retryMaxMs);
    }
  }

  // One logout, or the reports up to the next one; entries whose body could not be made are refused here.
  async #next() {
    const first = this.#waiting[0];
    const alone = (entry) => entry.path !== 'reports' || entry.alone;
    let count = this.#waiting.findIndex(alone);
    if (count === -1) count = this.#waiting.length;
    const taken = this.#waiting.splice(0, first && alone(first) ? 1 : Math.min(count, BATCH_MAX));
    const bodies = await Promise.allSettled(taken.map((entry) => entry.body));
    return taken.flatMap((entry, index) => {
      const { status, value, reason } = bodies[index];
      if (status === 'fulfilled') return [{ ...entry, body: value }];
      this.refuse({ ...entry, body: undefined }, reason);
      return [];
    });
  }

  async #call(entries) {
    const [{ path, body, key }] = entries;
    const response = await fetch(`${this.#base}/${path}`, {
      method: 'POST',
      redirect: 'error',
      signal: AbortSignal.any([AbortSignal.timeout(this.#timeoutMs), this.#givenUp.signal]),
      headers: {
        authorization: `Bearer ${this.#token()}`,
        'content-type': 'application/json',
        ...(key && { 'idempotency-key': key }),
      },
      body: JSON.stringify(path === 'reports' ? { reports: entries.map((entry) => entry.body) } : body),
    });
    const seconds = Number(response.headers.get('retry-after'));
    return {
      status: response.status,
      ...(seconds > 0 && { retryAfterMs: Math.min(seconds * 1000, RETRY_AFTER_MAX_MS) }),
      body: await response.json().catch(() => undefined),
    };
  }

  // Whether what is in hand is done with.
  #settle(answer) {
    const entries = this.#inHand;
    const results = resultsOf(entries, answer);
    if (results) {
      this.#inHand = [];
      this.#back();
      entries.forEach((entry, index) => this.#answered(entry, results[index]));
      return true;
    }
    if (!REFUSALS.has(answer.status)) {
      this.#failed(answer);
      return false;
    }
    this.#inHand = [];
    this.#back();
    // One malformed report refuses its call: alone, each is judged by itself.
    if (entries.length > 1) this.#waiting.unshift(...entries.map((entry) => ({ ...entry, alone: true })));
    else this.refuse(entries[0], answer);
    return true;
  }

  #answered(entry, result) {
    if (result.status === 404 && entry.otherwise) {
      this.add(entry.otherwise);
      return;
    }
    if (result.status >= 300) {
      this.refuse(entry, result);
      return;
    }
    this.#counts.sent += 1;
    this.#say({ type: 'sent', path: entry.path, seconds: now() - entry.at });
  }

  // No answer, an overloaded logoutd, a token or an address that somebody has yet to put right.
  #failed({ status, error }) {
    this.#counts.failures += 1;
    if (this.#away) return;
    this.#away = true;
    this.#say({ type: 'away', status, error, waiting: this.waiting });
  }

  #back() {
    if (!this.#away) return;
    this.#away = false;
    this.#say({ type: 'back', waiting: this.waiting });
  }
}

/** What logoutd says of each entry; nothing when it took none, or when it is something else that answers. */
function resultsOf(entries, { status, body }) {
  if (!(status >= 200 && status < 300)) return undefined;
  if (entries[0].path === 'logouts') return body?.id && [{ status }];
  return body?.results?.length === entries.length ? body.results : undefined;
}

function now() {
  return Date.now() / 1000;
}

function instant(seconds) {
  return new Date(seconds * 1000).toISOString();
}
