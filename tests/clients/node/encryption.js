// The AWS Encryption SDK for JavaScript: seals or opens a message in hexadecimal under the key and context it is told.
"use strict";

const { KmsKeyringNode, buildClient, CommitmentPolicy } = require("@aws-crypto/client-node");
const { KMS } = require("@aws-sdk/client-kms");
const { AssumeRoleCommand, STSClient } = require("@aws-sdk/client-sts");

const { KEY, ROLE, TENANT, MESSAGE } = process.env;
const { encrypt, decrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);

async function main(verb) {
  const assume = new AssumeRoleCommand({ RoleArn: ROLE, RoleSessionName: "node" });
  const { Credentials: keys } = await new STSClient().send(assume);
  const credentials = { accessKeyId: keys.AccessKeyId, secretAccessKey: keys.SecretAccessKey, sessionToken: keys.SessionToken };
  const clientProvider = (region) => new KMS({ region, credentials });
  if (verb === "seal") {
    const keyring = new KmsKeyringNode({ generatorKeyId: KEY, clientProvider });
    const { result } = await encrypt(keyring, Buffer.from(MESSAGE, "hex"), { encryptionContext: { tenant: TENANT } });
    console.log(`sealed=${result.toString("hex")}`);
  } else {
    const keyring = new KmsKeyringNode({ keyIds: [KEY], clientProvider });
    const { plaintext, messageHeader } = await decrypt(keyring, Buffer.from(MESSAGE, "hex"));
    console.log(`tenant=${messageHeader.encryptionContext.tenant}`);
    console.log(`opened=${plaintext.toString("hex")}`);
  }
}

main(process.argv[2]).catch((error) => {
  console.log(`error=${error.message.replaceAll("\n", " ")}`);
});
