// The test: starts everybody, signs alice and bob in at two applications, ends sessions through
// logoutd by sid, by one application's own sid and by sub, and looks at each protected page.
//
// What express-openid-connect does with a logout token decides what "the right places" are: a token
// with `sub` and `sid` ends every session of that person there, one with `sid` alone ends that
// session. The wiki is sent both (the default), the mail is registered for `sid` alone.

import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { claimsOf, headerOf, startApplication } from './application.js';
import { Browser } from './browser.js';
import { check, conclude, eventually, fail, failed, must, Stopped } from './checks.js';
import { listen } from './listen.js';
import { Logoutd } from './logoutd.js';
import { credentials, startProvider } from './provider.js';
import { reportFrom } from './reports.js';

const WHOLE_TEST_MS = 90_000;
const FORMS_MAX = 4;
const API = '/v1/issuers/op';

const logoutd = new Logoutd(process.env.LOGOUTD_BIN, process.argv[2]);
const overall = setTimeout(() => abandon('everything ends in time', `not within ${WHOLE_TEST_MS} ms`), WHOLE_TEST_MS);
process.on('SIGTERM', () => abandon('nobody ends the test', 'SIGTERM'));
process.on('SIGINT', () => abandon('nobody ends the test', 'SIGINT'));

function abandon(sentence, why) {
  fail(sentence, why);
  leave();
}

// The way out of a test that cannot go on.
function leave() {
  process.stderr.write(`${logoutd.log()}\n`);
  logoutd.kill();
  process.exit(conclude());
}

let world;
try {
  world = await startEverybody();
  await scenario(world);
} catch (error) {
  if (!(error instanceof Stopped)) fail('the test runs to its end', error.stack);
  leave();
}
clearTimeout(overall);
world.outbox.stop();
await logoutd.stop();
for (const door of world.doors) door.close();
if (failed > 0) process.stderr.write(`${logoutd.log()}\n`);
process.exit(conclude());

async function startEverybody() {
  const [op, wikiDoor, mailDoor] = await Promise.all([listen(), listen(), listen()]);
  const wikiClient = registration('wiki', wikiDoor);
  const mailClient = registration('mail', mailDoor);

  await logoutd.start();
  await logoutd.ask('POST', '/v1/issuers', { id: 'op', issuer: op.url, signing_algs: ['RS256'] });
  await logoutd.ask('PUT', `${API}/clients/wiki`, wikiClient);
  await logoutd.ask('PUT', `${API}/clients/mail`, { ...mailClient, delivery: { claims: 'sid' } });
  const { body: { token } } = await logoutd.ask('POST', '/v1/api-tokens', { role: 'provider', issuer: 'op' });

  const provider = startProvider({ door: op, clients: [wikiClient, mailClient], logoutdKeys: () => logoutd.keys('op') });
  const outbox = reportFrom(provider, (method, path, body) => logoutd.call(method, `${API}/${path}`, body, { token }));
  const sessions = [];
  provider.on('authorization.success', (ctx) => sessions.push(ctx.oidc.session.uid));

  return {
    doors: [op, wikiDoor, mailDoor],
    provider: op.url,
    token,
    outbox,
    sessions,
    wiki: startApplication({ door: wikiDoor, issuer: op.url, client: wikiClient, scope: 'openid profile' }),
    // OpenID Connect Core 11: offline access is asked for with consent.
    mail: startApplication({ door: mailDoor, issuer: op.url, client: mailClient, scope: 'openid profile offline_access', prompt: 'consent' }),
  };
}

// The provider and logoutd take the same registration: both speak OpenID Connect's names.
function registration(id, door) {
  return {
    client_id: id,
    client_name: `The ${id}`,
    client_secret: randomBytes(32).toString('base64url'),
    redirect_uris: [`${door.url}/callback`],
    grant_types: ['authorization_code', 'refresh_token'],
    backchannel_logout_uri: `${door.url}/backchannel-logout`,
    backchannel_logout_session_required: true,
    id_token_signed_response_alg: 'RS256',
  };
}

async function scenario({ provider, token, outbox, sessions, wiki, mail }) {
  const laptop = new Browser();
  const phone = new Browser();
  const bobs = new Browser();

  await check("the provider publishes logoutd's key beside its own", async () => {
    const published = await (await fetch(`${provider}/jwks`)).json();
    const { keys } = await logoutd.keys('op');
    const kids = new Set(published.keys.map((key) => key.kid));
    assert.ok(keys.length > 0 && keys.every((key) => kids.has(key.kid)), 'a key of logoutd is missing');
    assert.equal(kids.size, keys.length + 1);
    assert.ok(published.keys.every((key) => key.d === undefined), 'a private key is published');
  });

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

  // --- logoutd goes away and comes back.
  const bobsPhone = new Browser();
  await check('while logoutd is away bob signs in on his phone as always', async () => {
    await logoutd.stop();
    ofBob.phone = await signInAtBoth(bobsPhone, 'bob');
    assert.ok(outbox.waiting > 0, 'nothing waits to be reported');
  });
  await check('logoutd comes back and hears of it', async () => {
    await logoutd.start();
    await everythingReported();
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
    assert.deepEqual(outbox.refused, []);
    const answers = [...wiki.logoutTokens, ...mail.logoutTokens].map(({ status }) => status);
    assert.deepEqual(answers, Array(11).fill(204));
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
    return eventually(() => assert.equal(outbox.waiting, 0, `${outbox.waiting} reports are still waiting`));
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

  async function out(browser, application) {
    const page = await browser.get(application.page);
    assert.equal(page.status, 302, `${application.id} shows the page`);
    assert.equal(page.location.origin + page.location.pathname, `${provider}/auth`);
  }
}

// Opens the protected page and answers the provider's forms until the page is there.
async function signIn(browser, application, account) {
  const before = application.signIns.length;
  let page = await browser.open(application.page);
  let forms = 0;
  for (; page.url.href !== application.page && forms < FORMS_MAX; forms += 1) {
    page = await browser.submit(page, credentials(account));
  }
  assert.equal(page.url.href, application.page, `ended at ${page.url.origin}${page.url.pathname}: ${page.status} ${page.body.slice(0, 300)}`);
  assert.equal(page.status, 200);
  assert.equal(application.signIns.length, before + 1, 'the application did not take a sign-in');
  return { ...application.signIns.at(-1), forms };
}

async function inside(browser, application, name) {
  const page = await browser.get(application.page);
  assert.equal(page.status, 200, `${application.id} sends to ${page.location?.origin ?? page.status}`);
  assert.ok(page.body.includes(name), page.body);
}
