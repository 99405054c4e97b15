// The provider reports to logoutd with the adapter of examples/providers, and logoutd alone tells the applications: alice and bob sign in at two
// applications; sessions end through logoutd by sid, by one application's own sid and by sub, and at the provider itself.
//
// What express-openid-connect does with a logout token decides what "the right places" are: a token with `sub` and `sid` ends every session of that
// person there, one with `sid` alone ends that session. The wiki is sent both (the default), the mail is registered for `sid` alone.

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { randomUUID } from 'node:crypto';
import { attachLogoutd } from '../../examples/providers/node-oidc-provider/logoutd.js';
import { claimsOf, headerOf, startApplication } from './application.js';
import { Browser } from './browser.js';
import { eventually } from './checks.js';
import { listen } from './listen.js';
import { inside, leave, out, signIn, signOut } from './people.js';
import { startProvider } from './provider.js';
import { API, registration } from './world.js';

/** Longer than any sign-in here takes, and shorter than a reporter waits for an answer. */
const SIGN_IN_MS = 8_000;

/** Runs the scenario against a logoutd that has just started. */
export async function reported(logoutd, doors, checks) {
  const world = await startEverybody(logoutd, doors);
  await scenario(world, checks);
  await adapterInTrouble(world, checks);
}

async function startEverybody(logoutd, doors) {
  const [op, wikiDoor, mailDoor, hanging] = await Promise.all([listen(), listen(), listen(), listen()]);
  doors.push(op, wikiDoor, mailDoor, hanging);
  const wikiClient = registration('wiki', wikiDoor);
  const mailClient = registration('mail', mailDoor);

  await logoutd.ask('POST', '/v1/issuers', { id: 'op', issuer: op.url, signing_algs: ['RS256'] });
  await logoutd.ask('PUT', `${API}/clients/wiki`, wikiClient);
  await logoutd.ask('PUT', `${API}/clients/mail`, { ...mailClient, delivery: { claims: 'sid' } });
  const { body: { token } } = await logoutd.ask('POST', '/v1/api-tokens', { role: 'provider', issuer: 'op' });

  const provider = startProvider({ door: op, clients: [wikiClient, mailClient], publish: `${logoutd.url}/op/jwks` });
  const heard = [];
  const reporter = attachLogoutd(provider, { url: logoutd.url, issuer: 'op', token, retryMaxMs: 1_000, observe: (event) => heard.push(event) });
  const sessions = [];
  provider.on('authorization.success', (ctx) => sessions.push(ctx.oidc.session.uid));

  return {
    logoutd,
    provider: op.url,
    instance: provider,
    hanging: hanging.url,
    token,
    reporter,
    heard,
    sessions,
    wiki: startApplication({ door: wikiDoor, issuer: op.url, client: wikiClient, scope: 'openid profile' }),
    // OpenID Connect Core 11: offline access is asked for with consent.
    mail: startApplication({ door: mailDoor, issuer: op.url, client: mailClient, scope: 'openid profile offline_access', prompt: 'consent' }),
  };
}

async function scenario({ logoutd, provider, token, reporter, heard, sessions, wiki, mail }, { check, must }) {
  const laptop = new Browser();
  const phone = new Browser();
  const bobs = new Browser();

  await must("the provider publishes logoutd's key beside its own", () => eventually(async () => {
    const published = await (await fetch(`${provider}/jwks`)).json();
    const { keys } = await logoutd.keys('op');
    const kids = new Set(published.keys.map((key) => key.kid));
    assert.ok(keys.length > 0 && keys.every((key) => kids.has(key.kid)), 'a key of logoutd is missing');
    assert.equal(kids.size, keys.length + 1);
    assert.ok(published.keys.every((key) => key.d === undefined), 'a private key is published');
  }));

  // --- Two people sign in.
  let onLaptop;
  let onPhone;
  let ofBob;
  await must('alice signs in at the wiki and the mail on her laptop, with one password', async () => {
    onLaptop = await signInAtBoth(laptop, 'alice');
  });
  await must('alice signs in at both on her phone', async () => {
    onPhone = await signInAtBoth(phone, 'alice');
    assert.notEqual(onPhone.session, onLaptop.session);
  });
  await must('bob signs in at both', async () => {
    ofBob = await signInAtBoth(bobs, 'bob');
  });
  await check("the provider's events told logoutd each session, with the sub and sid each application saw", async () => {
    await everythingReported();
    await known(onLaptop, 'alice');
    await known(onPhone, 'alice');
    await known(ofBob, 'bob');
  });
  await check('every refresh token is active, and one nobody issued is not', async () => {
    const answer = await introspect(onLaptop.wiki.refreshToken);
    assert.equal(answer.active, true);
    assert.equal(answer.sub, 'alice');
    assert.equal(answer.client_id, 'wiki');
    for (const person of [onLaptop, onPhone, ofBob]) {
      await active(person.wiki.refreshToken, true);
      await active(person.mail.refreshToken, true);
    }
    await active('a token nobody issued', false);
  });

  // --- A logout by the provider's session id.
  await check("a logout by the laptop's sid is delivered to both applications", async () => {
    const receipt = await logout({ target: { sid: onLaptop.session }, reason: 'user_logout' });
    settled(receipt, { sessions: 1, clients: ['mail', 'wiki'] });
    assert.equal(receipt.refresh_tokens_revoked, 1);
  });
  await check('each application took one logout token, signed by the key in the JWKS, in the form it registered', async () => {
    assert.deepEqual([wiki, mail].map(({ logoutTokens }) => logoutTokens.map(({ status }) => status)), [[204], [204]]);
    const kids = (await logoutd.keys('op')).keys.map((key) => key.kid);
    for (const { token: jwt } of [...wiki.logoutTokens, ...mail.logoutTokens]) assert.ok(kids.includes(headerOf(jwt).kid));
    const toWiki = claimsOf(wiki.logoutTokens[0].token);
    const toMail = claimsOf(mail.logoutTokens[0].token);
    assert.deepEqual([toWiki.iss, toWiki.sub, toWiki.sid], [provider, 'alice', onLaptop.wiki.sid]);
    assert.deepEqual([toMail.iss, toMail.sub, toMail.sid], [provider, undefined, onLaptop.mail.sid]);
  });
  await check("alice's laptop must sign in again at both", async () => {
    await out(laptop, wiki);
    await out(laptop, mail);
  });
  await check("alice's phone is still in at the mail, which was told a sid alone", () => inside(phone, mail, 'Alice'));
  await check("alice's phone is out at the wiki, whose library ends every session of a sub", () => out(phone, wiki));
  await check('bob is still in at both', () => insideBoth(bobs, 'Bob'));
  await check("the laptop's refresh token is dead; offline access, the phone's and bob's are not", async () => {
    await active(onLaptop.wiki.refreshToken, false);
    await active(onLaptop.mail.refreshToken, true);
    await active(onPhone.wiki.refreshToken, true);
    await active(ofBob.wiki.refreshToken, true);
  });

  // --- A logout by the id that one application saw.
  const newLaptop = new Browser();
  let again;
  await must('alice signs in at both once more, on a new laptop', async () => {
    again = await signInAtBoth(newLaptop, 'alice');
    await everythingReported();
    await known(again, 'alice');
  });
  await check("a logout by the wiki's own sid ends that participation and no session", async () => {
    const receipt = await logout({ target: { client_id: 'wiki', client_sid: again.wiki.sid }, reason: 'admin' });
    settled(receipt, { sessions: 0, participations: 1, clients: ['wiki'] });
  });
  await check('alice is out at the wiki and in at the mail, bob is in at both', async () => {
    await out(newLaptop, wiki);
    await inside(newLaptop, mail, 'Alice');
    await insideBoth(bobs, 'Bob');
    await active(again.wiki.refreshToken, false);
    await active(again.mail.refreshToken, true);
  });
  await check('she goes back to the wiki without a password, since her session at the provider lives', async () => {
    const back = await signIn(newLaptop, wiki, 'alice');
    assert.equal(back.forms, 0);
    await everythingReported();
    await active(back.refreshToken, true);
    again.wiki = back;
  });

  // --- A logout by subject.
  await check('a logout by sub reaches both applications for each of her two sessions', async () => {
    const receipt = await logout({ target: { sub: 'alice' }, reason: 'compromise' });
    settled(receipt, { sessions: 2, clients: ['mail', 'mail', 'wiki', 'wiki'] });
  });
  await check('alice must sign in again everywhere', async () => {
    for (const browser of [phone, newLaptop]) {
      await out(browser, wiki);
      await out(browser, mail);
    }
  });
  await check('bob is still in at both, and his refresh tokens are alive', async () => {
    await insideBoth(bobs, 'Bob');
    await active(ofBob.wiki.refreshToken, true);
    await active(ofBob.mail.refreshToken, true);
  });
  await check('a compromise leaves no refresh token of hers alive, offline access included', async () => {
    for (const person of [onLaptop, onPhone, again]) {
      await active(person.wiki.refreshToken, false);
      await active(person.mail.refreshToken, false);
    }
  });

  // --- A logout that begins at the provider.
  const tablet = new Browser();
  await must('bob signs in at both on his tablet, and signs out at the provider', async () => {
    ofBob.tablet = await signInAtBoth(tablet, 'bob');
    await everythingReported();
    await signOut(tablet, provider);
  });
  await check('the adapter told logoutd, which ended the session and told both applications', async () => {
    const receipt = await settledLogout(({ target }) => target.sid === ofBob.tablet.session);
    settled(receipt, { sessions: 1, clients: ['mail', 'wiki'] });
    await out(tablet, wiki);
    await out(tablet, mail);
    await active(ofBob.tablet.wiki.refreshToken, false);
    await inside(bobs, mail, 'Bob');
  });

  await check('carol signs out of the wiki and stays signed in: she is out there, and in at the mail', async () => {
    const carols = new Browser();
    const { session } = await signInAtBoth(carols, 'carol');
    await everythingReported();
    // Times are compared in whole seconds, and a tie favours who came: she is not as quick as this test.
    const came = Math.floor(Date.now() / 1000);
    await eventually(() => assert.notEqual(Math.floor(Date.now() / 1000), came));
    await leave(carols, wiki);
    const receipt = await settledLogout(({ target }) => target.sid === session && target.client_id === 'wiki');
    settled(receipt, { sessions: 0, participations: 1, clients: ['wiki'] });
    await out(carols, wiki);
    await inside(carols, mail, 'Carol');
  });

  // --- Refresh tokens that are used once.
  const atWork = new Browser();
  let successor;
  await must('the wiki uses the refresh token of carol at work, and its successor takes its place here', async () => {
    const { refreshToken } = await signIn(atWork, wiki, 'carol');
    successor = await refresh(refreshToken);
    assert.equal(successor.status, 200);
    await everythingReported();
    await active(successor.body.refresh_token, true);
    await active(refreshToken, false);
    assert.equal((await refresh(refreshToken)).status, 400);
  });
  await check('the old one used again is told as a reuse: the successor dies and the wiki is told', async () => {
    const receipt = await settledLogout(({ reason }) => reason === 'token_reuse');
    settled(receipt, { sessions: 0, participations: 1, clients: ['wiki'] });
    await active(successor.body.refresh_token, false);
    await out(atWork, wiki);
  });

  // --- logoutd goes away and comes back.
  const bobsPhone = new Browser();
  await check('while logoutd is away bob signs in on his phone as always', async () => {
    await logoutd.stop();
    ofBob.phone = await signInAtBoth(bobsPhone, 'bob');
    assert.ok(reporter.waiting > 0, 'nothing waits to be reported');
    await eventually(() => assert.equal(heard.at(-1).type, 'away'));
    assert.ok(reporter.metrics.failures > 0 && reporter.metrics.oldest_waiting_seconds > 0);
  });
  await check('logoutd comes back and hears of it', async () => {
    await logoutd.start();
    await everythingReported();
    assert.ok(heard.some(({ type }) => type === 'back'));
    await known(ofBob.phone, 'bob');
    await active(ofBob.phone.wiki.refreshToken, true);
  });
  await check('a logout by sub then ends the sessions from before and from meanwhile', async () => {
    const receipt = await logout({ target: { sub: 'bob' }, reason: 'user_logout' });
    settled(receipt, { sessions: 2, clients: ['mail', 'mail', 'wiki', 'wiki'] });
    for (const browser of [bobs, bobsPhone]) {
      await out(browser, wiki);
      await out(browser, mail);
    }
  });
  await check('logoutd refused no report, and no application refused a logout token', () => {
    assert.deepEqual(heard.filter(({ type }) => type === 'refused' || type === 'dropped'), []);
    const answers = [...wiki.logoutTokens, ...mail.logoutTokens].map(({ status }) => status);
    assert.deepEqual(new Set(answers), new Set([204]));
  });

  async function signInAtBoth(browser, account) {
    const atWiki = await signIn(browser, wiki, account);
    const session = sessions.at(-1);
    const atMail = await signIn(browser, mail, account);
    assert.equal(sessions.at(-1), session, 'the mail joined another session');
    // Password and consent, then consent alone.
    assert.deepEqual([atWiki.forms, atMail.forms], [2, 1]);
    return { session, wiki: atWiki, mail: atMail };
  }

  async function known({ session, wiki: atWiki, mail: atMail }, sub) {
    const { body } = await logoutd.ask('GET', `${API}/sessions/${encodeURIComponent(session)}`, undefined, { token });
    assert.equal(body.state, 'live');
    const seen = body.participants.map(({ client_id, sid, sub: subject }) => [client_id, sid, subject]).sort();
    assert.deepEqual(seen, [['mail', atMail.sid, sub], ['wiki', atWiki.sid, sub]]);
  }

  function everythingReported() {
    return eventually(() => assert.equal(reporter.waiting, 0, `${reporter.waiting} reports are still waiting`));
  }

  async function refresh(refreshToken) {
    const response = await fetch(`${provider}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${Buffer.from(`wiki:${wiki.secret}`).toString('base64')}` },
      body: new URLSearchParams({ grant_type: 'refresh_token', refresh_token: refreshToken }),
    });
    return { status: response.status, body: await response.json() };
  }

  async function introspect(refreshToken) {
    const form = new URLSearchParams({ token: refreshToken });
    return (await logoutd.ask('POST', '/op/introspect', form, { token })).body;
  }

  async function active(refreshToken, expected) {
    assert.ok(refreshToken, 'there is no refresh token');
    assert.equal((await introspect(refreshToken)).active, expected);
  }

  async function logout(order) {
    const headers = { prefer: 'wait=10', 'idempotency-key': randomUUID() };
    const { status: code, body } = await logoutd.ask('POST', `${API}/logouts`, order, { token, headers });
    assert.equal(code, 201, JSON.stringify(body));
    return body;
  }

  // The receipt of the one logout that is such and such, once everybody has answered.
  async function settledLogout(isSuch) {
    return eventually(async () => {
      await everythingReported();
      const { body: { items } } = await logoutd.ask('GET', `${API}/logouts?state=settled`, undefined, { token });
      const such = items.filter(isSuch);
      assert.equal(such.length, 1, 'there is no such settled logout');
      return (await logoutd.ask('GET', `${API}/logouts/${such[0].id}`, undefined, { token })).body;
    });
  }

  function settled(receipt, { sessions: ended, participations = 0, clients }) {
    const { state, sessions_ended, participations_ended, deliveries } = receipt;
    assert.deepEqual(
      { state, sessions_ended, participations_ended, total: deliveries.total, delivered: deliveries.delivered },
      { state: 'settled', sessions_ended: ended, participations_ended: participations, total: clients.length, delivered: clients.length },
    );
    assert.deepEqual(receipt.clients.map(({ client_id }) => client_id).sort(), clients);
    assert.ok(receipt.clients.every((line) => line.state === 'delivered' && line.attempts === 1));
  }

  async function insideBoth(browser, name) {
    await inside(browser, wiki, name);
    await inside(browser, mail, name);
  }
}

// The adapter alone, against a logoutd that is not there, and against the real one with what it will not take.
async function adapterInTrouble({ logoutd, provider, instance, hanging, token, wiki, reporter, sessions }, { check }) {
  await check('while logoutd hangs a sign-in takes no longer, a full queue says what it drops, and a stop does not wait', async () => {
    const said = [];
    const stuck = attachLogoutd(instance, { url: hanging, issuer: 'op', token, queueMax: 2, observe: (event) => said.push(event) });
    const begun = Date.now();
    await signIn(new Browser(), wiki, 'alice');
    assert.ok(Date.now() - begun < SIGN_IN_MS, `${Date.now() - begun} ms`);
    assert.ok(stuck.metrics.dropped > 0, 'nothing was dropped');
    assert.equal(said.filter(({ type }) => type === 'dropped').length, stuck.metrics.dropped);
    assert.ok(stuck.waiting <= 3, `${stuck.waiting} wait`);
    const { waiting } = stuck;
    assert.equal(await stuck.close({ timeoutMs: 100 }), waiting);
    assert.equal(stuck.metrics.sent, 0);
  });
  await check('one report that logoutd refuses takes no other with it', async () => {
    const said = [];
    const events = new EventEmitter();
    const fresh = attachLogoutd(events, { url: logoutd.url, issuer: 'op', token, observe: (event) => said.push(event) });
    const session = (uid) => ({ uid, accountId: 'alice', loginTs: Math.floor(Date.now() / 1000) });
    for (const uid of ['s-1', 'x'.repeat(300), 's-2']) events.emit('session.saved', session(uid));
    events.emit('authorization.success', {});
    assert.equal(await fresh.close(), 0);
    assert.deepEqual([fresh.metrics.sent, fresh.metrics.refused, fresh.metrics.dropped], [2, 2, 0]);
    assert.deepEqual(said.filter(({ type }) => type === 'refused').map(({ why }) => why.status), [undefined, 422]);
    for (const uid of ['s-1', 's-2']) await logoutd.ask('GET', `${API}/sessions/${uid}`, undefined, { token });
  });
  await check('an application with pairwise subjects is reported with what it saw, or not at all', async () => {
    const events = new EventEmitter();
    const options = { url: logoutd.url, issuer: 'op', token };
    const careless = attachLogoutd(events, options);
    const careful = attachLogoutd(events, {
      ...options,
      pairwiseIdentifier: async (_, accountId, client) => `${accountId} at ${client.clientId}`,
      device: () => ({ label: 'a tablet' }),
    });
    const session = { uid: 's-3', accountId: 'alice', loginTs: Math.floor(Date.now() / 1000), sidFor: (client) => `${client} saw` };
    events.emit('authorization.success', { oidc: { session, client: { clientId: 'wiki', subjectType: 'pairwise' } } });
    assert.deepEqual([await careless.close(), await careful.close()], [0, 0]);
    assert.deepEqual([careless.metrics.refused, careful.metrics.sent], [1, 1]);
    const { body } = await logoutd.ask('GET', `${API}/sessions/s-3`, undefined, { token });
    assert.deepEqual(body.participants.map(({ sub, sid }) => [sub, sid]), [['alice at wiki', 'wiki saw']]);
    assert.equal(body.device.label, 'a tablet');
  });
  await check('a logout whose answer was lost is told again, and done once', async () => {
    const lossy = await listen();
    let calls = 0;
    lossy.serve(async (request, response) => {
      const chunks = await request.toArray();
      const { authorization, 'idempotency-key': key } = request.headers;
      const headers = { authorization, 'content-type': 'application/json', 'idempotency-key': key };
      const answer = await fetch(logoutd.url + request.url, { method: 'POST', headers, body: Buffer.concat(chunks) });
      calls += 1;
      if (calls === 1) request.socket.destroy();
      else response.writeHead(answer.status).end(await answer.text());
    });
    const events = new EventEmitter();
    const unlucky = attachLogoutd(events, { url: lossy.url, issuer: 'op', token });
    events.emit('session.destroyed', { uid: 's-1', accountId: 'alice' });
    assert.equal(await unlucky.close(), 0);
    lossy.close();
    assert.deepEqual([calls, unlucky.metrics.sent, unlucky.metrics.failures], [2, 1, 1]);
    const { body } = await logoutd.ask('POST', `${API}/logouts/search`, { sid: 's-1' }, { token });
    assert.equal(body.items.length, 1);
  });
  await check('a stop sends what waits', async () => {
    const browser = new Browser();
    await signIn(browser, wiki, 'alice');
    await signOut(browser, provider);
    assert.equal(await reporter.close(), 0);
    const { body } = await logoutd.ask('GET', `${API}/sessions/${encodeURIComponent(sessions.at(-1))}`, undefined, { token });
    assert.equal(body.state, 'ended');
  });
}
