// Answers cases (one JSON object a line) with npm's @cloud-copilot/iam-simulate, another implementation of AWS's policy
// evaluation. A program of its own under its own licence (AGPL): run beside the tests, never linked or shipped.
import { createInterface } from 'node:readline'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const require = createRequire(pathToFileURL(`${process.argv[2]}/`))
const { runSimulation } = await import(pathToFileURL(require.resolve('@cloud-copilot/iam-simulate')))

const everything = { Version: '2012-10-17', Statement: { Effect: 'Allow', Action: '*', Resource: '*' } }

for await (const line of createInterface({ input: process.stdin })) {
  const one = JSON.parse(line)
  const answer = await runSimulation(
    {
      request: {
        principal: one.caller.arn,
        action: one.action,
        resource: { resource: one.resource, accountId: one.keyAccount },
        contextVariables: one.context,
      },
      identityPolicies: one.identity.map((policy, index) => ({ name: `p${index}`, policy })),
      resourcePolicy: one.keyPolicy,
      ...(one.boundary && { permissionBoundaryPolicies: [{ name: 'boundary', policy: one.boundary }] }),
      ...(one.session && { sessionPolicy: one.session }),
      serviceControlPolicies: [{ orgIdentifier: 'o', policies: [{ name: 'all', policy: everything }] }],
      resourceControlPolicies: [],
    },
    {},
  )
  const said =
    answer.resultType === 'error'
      ? { error: JSON.stringify(answer.errors) }
      : { result: answer.overallResult, ignored: answer.result.ignoredContextKeys }
  process.stdout.write(`${JSON.stringify({ id: one.id, ...said })}\n`)
}
