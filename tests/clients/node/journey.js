// The AWS SDK for JavaScript as an application uses it; workplace.py says what it is told, test_sdks.py what it must find.
"use strict";

const kms = require("@aws-sdk/client-kms");
const sts = require("@aws-sdk/client-sts");

const { KEY, OTHER_KEY, SIGNING_KEY, MAC_KEY, DISABLED_KEY, WORKER, VISITOR } = process.env;
const text = (bytes) => Buffer.from(bytes).toString();
const say = (name, value) => console.log(`${name}=${value}`);

async function assume(role) {
  const { Credentials: keys } = await new sts.STSClient().send(
    new sts.AssumeRoleCommand({ RoleArn: role, RoleSessionName: "node" }),
  );
  const credentials = { accessKeyId: keys.AccessKeyId, secretAccessKey: keys.SecretAccessKey, sessionToken: keys.SessionToken };
  return { credentials };
}

async function fails(name, client, command) {
  try {
    await client.send(command);
    say(`error.${name}`, "none");
  } catch (error) {
    say(`error.${name}`, `${error.name} ${error.constructor.name}`);
  }
}

async function journey() {
  say("caller", (await new sts.STSClient().send(new sts.GetCallerIdentityCommand())).Arn);
  const session = await assume(WORKER);
  const worker = new kms.KMSClient(session);
  const visitor = new kms.KMSClient(await assume(VISITOR));
  say("worker", (await new sts.STSClient(session).send(new sts.GetCallerIdentityCommand())).Arn);

  const context = { tenant: "7", purpose: "größer" };
  const input = { KeyId: KEY, Plaintext: Buffer.from("over the wire"), EncryptionContext: context };
  const sealed = await worker.send(new kms.EncryptCommand(input));
  say("request", sealed.$metadata.requestId);
  const blob = sealed.CiphertextBlob;
  const opened = await worker.send(new kms.DecryptCommand({ CiphertextBlob: blob, EncryptionContext: context }));
  say("opened", text(opened.Plaintext));

  const dataKey = await worker.send(new kms.GenerateDataKeyCommand({ KeyId: KEY, KeySpec: "AES_256" }));
  const again = await worker.send(new kms.DecryptCommand({ CiphertextBlob: dataKey.CiphertextBlob }));
  say("data_key", dataKey.Plaintext.length === 32 && Buffer.from(dataKey.Plaintext).equals(Buffer.from(again.Plaintext)));

  const moved = await worker.send(
    new kms.ReEncryptCommand({ CiphertextBlob: blob, SourceEncryptionContext: context, DestinationKeyId: OTHER_KEY }),
  );
  const reopened = await worker.send(new kms.DecryptCommand({ CiphertextBlob: moved.CiphertextBlob, KeyId: OTHER_KEY }));
  say("reopened", text(reopened.Plaintext));

  const message = { KeyId: SIGNING_KEY, Message: Buffer.from("signed"), SigningAlgorithm: "ECDSA_SHA_256" };
  const { Signature } = await worker.send(new kms.SignCommand(message));
  say("signature", (await worker.send(new kms.VerifyCommand({ ...message, Signature }))).SignatureValid);
  const tagged = { KeyId: MAC_KEY, Message: Buffer.from("tagged"), MacAlgorithm: "HMAC_SHA_256" };
  const { Mac } = await worker.send(new kms.GenerateMacCommand(tagged));
  say("mac", (await worker.send(new kms.VerifyMacCommand({ ...tagged, Mac }))).MacValid);

  const { KeyMetadata } = await worker.send(new kms.DescribeKeyCommand({ KeyId: KEY }));
  say("created", KeyMetadata.CreationDate.getTime() / 1000);
  let listed = 0;
  for await (const page of kms.paginateListKeys({ client: worker, pageSize: 2 }, {})) listed += page.Keys.length;
  say("listed", listed);

  await fails("wrong_context", worker, new kms.DecryptCommand({ CiphertextBlob: blob, EncryptionContext: { tenant: "8" } }));
  await fails("wrong_key", worker, new kms.DecryptCommand({ CiphertextBlob: blob, EncryptionContext: context, KeyId: OTHER_KEY }));
  await fails("refused", visitor, new kms.DecryptCommand({ CiphertextBlob: blob, EncryptionContext: context }));
  await fails("missing", worker, new kms.DescribeKeyCommand({ KeyId: "alias/nothing-here" }));
  await fails("disabled", worker, new kms.EncryptCommand({ ...input, KeyId: DISABLED_KEY }));
  await fails("usage", worker, new kms.EncryptCommand({ KeyId: SIGNING_KEY, Plaintext: Buffer.from("x") }));
  await fails("forged", worker, new kms.VerifyCommand({ ...message, Message: Buffer.from("forged"), Signature }));
  await fails("forged_mac", worker, new kms.VerifyMacCommand({ ...tagged, Message: Buffer.from("forged"), Mac }));
  await fails("too_long", worker, new kms.EncryptCommand({ ...input, Plaintext: Buffer.alloc(4097) }));
}

// With whatever credentials the SDK finds by itself.
async function workload() {
  say("caller", (await new sts.STSClient().send(new sts.GetCallerIdentityCommand())).Arn);
  const dataKey = await new kms.KMSClient().send(new kms.GenerateDataKeyCommand({ KeyId: KEY, KeySpec: "AES_256" }));
  say("length", dataKey.Plaintext.length);
}

// More calls than the quota lets through at once.
async function flood() {
  const worker = new kms.KMSClient(await assume(WORKER));
  let tried = 0;
  for (let call = 0; call < Number(process.env.CALLS); call += 1) {
    tried += (await worker.send(new kms.GetKeyRotationStatusCommand({ KeyId: KEY }))).$metadata.attempts;
  }
  say("attempts", tried);
}

// A machine whose clock is ten minutes off: the SDK learns the time from the refusal's Date.
async function skew() {
  const right = Date.now;
  for (const minutes of [-10, 10]) {
    Date.now = right;
    const client = new kms.KMSClient(await assume(WORKER));
    Date.now = () => right() + minutes * 60_000;
    for (const turn of ["first", "second"]) {
      const described = await client.send(new kms.DescribeKeyCommand({ KeyId: KEY }));
      say(`${turn}.${minutes}`, described.$metadata.attempts);
    }
  }
}

({ journey, workload, flood, skew })[process.argv[2]]().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
