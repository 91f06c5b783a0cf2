// The AWS SDK for Go as an application uses it; workplace.py says what it is told, test_sdks.py what it must find.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

var (
	ctx        = context.Background()
	key        = aws.String(os.Getenv("KEY"))
	otherKey   = aws.String(os.Getenv("OTHER_KEY"))
	signingKey = aws.String(os.Getenv("SIGNING_KEY"))
	macKey     = aws.String(os.Getenv("MAC_KEY"))
)

func main() {
	verbs := map[string]func(aws.Config) error{"journey": journey, "workload": workload, "flood": flood}
	base, err := config.LoadDefaultConfig(ctx)
	if err == nil {
		err = verbs[os.Args[1]](base)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func say(name string, value any) { fmt.Printf("%s=%v\n", name, value) }

// assume gives a configuration that assumes the role by itself.
func assume(base aws.Config, role string) aws.Config {
	session := base.Copy()
	name := func(options *stscreds.AssumeRoleOptions) { options.RoleSessionName = "go" }
	provider := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(base), role, name)
	session.Credentials = aws.NewCredentialsCache(provider)
	return session
}

func fails(name string, err error) {
	var api smithy.APIError
	switch {
	case err == nil:
		say("error."+name, "none")
	case errors.As(err, &api):
		say("error."+name, api.ErrorCode()+" "+reflect.TypeOf(api).Elem().Name())
	default:
		say("error."+name, err)
	}
}

func journey(base aws.Config) error {
	caller, err := sts.NewFromConfig(base).GetCallerIdentity(ctx, nil)
	if err != nil {
		return err
	}
	say("caller", *caller.Arn)
	session := assume(base, os.Getenv("WORKER"))
	if caller, err = sts.NewFromConfig(session).GetCallerIdentity(ctx, nil); err != nil {
		return err
	}
	say("worker", *caller.Arn)
	worker, visitor := kms.NewFromConfig(session), kms.NewFromConfig(assume(base, os.Getenv("VISITOR")))
	for _, part := range []func(worker, visitor *kms.Client) error{sealing, signing, looking} {
		if err := part(worker, visitor); err != nil {
			return err
		}
	}
	return nil
}

func sealing(worker, visitor *kms.Client) error {
	names := map[string]string{"tenant": "7", "purpose": "größer"}
	sealed, err := worker.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("over the wire"), EncryptionContext: names})
	if err != nil {
		return err
	}
	request, _ := middleware.GetRequestIDMetadata(sealed.ResultMetadata)
	say("request", request)
	blob := sealed.CiphertextBlob
	opened, err := worker.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: names})
	if err != nil {
		return err
	}
	say("opened", string(opened.Plaintext))

	dataKey, err := worker.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		return err
	}
	again, err := worker.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: dataKey.CiphertextBlob})
	if err != nil {
		return err
	}
	say("data_key", len(dataKey.Plaintext) == 32 && bytes.Equal(dataKey.Plaintext, again.Plaintext))

	moved, err := worker.ReEncrypt(ctx, &kms.ReEncryptInput{
		CiphertextBlob: blob, SourceEncryptionContext: names, DestinationKeyId: otherKey,
	})
	if err != nil {
		return err
	}
	reopened, err := worker.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob, KeyId: otherKey})
	if err != nil {
		return err
	}
	say("reopened", string(reopened.Plaintext))

	_, err = worker.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: map[string]string{"tenant": "8"}})
	fails("wrong_context", err)
	_, err = worker.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: names, KeyId: otherKey})
	fails("wrong_key", err)
	_, err = visitor.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: names})
	fails("refused", err)
	_, err = worker.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(os.Getenv("DISABLED_KEY")), Plaintext: []byte("x")})
	fails("disabled", err)
	_, err = worker.Encrypt(ctx, &kms.EncryptInput{KeyId: signingKey, Plaintext: []byte("x")})
	fails("usage", err)
	_, err = worker.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: make([]byte, 4097)})
	fails("too_long", err)
	return nil
}

func signing(worker, _ *kms.Client) error {
	algorithm, mac := types.SigningAlgorithmSpecEcdsaSha256, types.MacAlgorithmSpecHmacSha256
	signed, err := worker.Sign(ctx, &kms.SignInput{KeyId: signingKey, Message: []byte("signed"), SigningAlgorithm: algorithm})
	if err != nil {
		return err
	}
	verify := func(message string) (*kms.VerifyOutput, error) {
		return worker.Verify(ctx, &kms.VerifyInput{
			KeyId: signingKey, Message: []byte(message), Signature: signed.Signature, SigningAlgorithm: algorithm,
		})
	}
	verified, err := verify("signed")
	if err != nil {
		return err
	}
	say("signature", verified.SignatureValid)
	_, err = verify("forged")
	fails("forged", err)

	tagged, err := worker.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: macKey, Message: []byte("tagged"), MacAlgorithm: mac})
	if err != nil {
		return err
	}
	verifyMac := func(message string) (*kms.VerifyMacOutput, error) {
		return worker.VerifyMac(ctx, &kms.VerifyMacInput{
			KeyId: macKey, Message: []byte(message), Mac: tagged.Mac, MacAlgorithm: mac,
		})
	}
	checked, err := verifyMac("tagged")
	if err != nil {
		return err
	}
	say("mac", checked.MacValid)
	_, err = verifyMac("forged")
	fails("forged_mac", err)
	return nil
}

func looking(worker, _ *kms.Client) error {
	described, err := worker.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key})
	if err != nil {
		return err
	}
	say("created", described.KeyMetadata.CreationDate.Unix())
	listed := 0
	for pages := kms.NewListKeysPaginator(worker, &kms.ListKeysInput{Limit: aws.Int32(2)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		listed += len(page.Keys)
	}
	say("listed", listed)
	_, err = worker.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/nothing-here")})
	fails("missing", err)
	return nil
}

// workload has a token in a file and no key. The provider is made by hand: the one that the SDK finds by itself asks AWS's
// own endpoint, as it is made before AWS_ENDPOINT_URL is read.
func workload(base aws.Config) error {
	name := func(options *stscreds.WebIdentityRoleOptions) {
		options.RoleSessionName = os.Getenv("AWS_ROLE_SESSION_NAME")
	}
	token := stscreds.IdentityTokenFile(os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"))
	provider := stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(base), os.Getenv("AWS_ROLE_ARN"), token, name)
	session := base.Copy()
	session.Credentials = aws.NewCredentialsCache(provider)
	caller, err := sts.NewFromConfig(session).GetCallerIdentity(ctx, nil)
	if err != nil {
		return err
	}
	say("caller", *caller.Arn)
	input := kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256}
	dataKey, err := kms.NewFromConfig(session).GenerateDataKey(ctx, &input)
	if err != nil {
		return err
	}
	say("length", len(dataKey.Plaintext))
	return nil
}

// flood makes more calls than the quota lets through at once.
func flood(base aws.Config) error {
	worker := kms.NewFromConfig(assume(base, os.Getenv("WORKER")))
	calls, err := strconv.Atoi(os.Getenv("CALLS"))
	if err != nil {
		return err
	}
	tried := 0
	for range calls {
		status, err := worker.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: key})
		if err != nil {
			return err
		}
		attempts, _ := retry.GetAttemptResults(status.ResultMetadata)
		tried += len(attempts.Results)
	}
	say("attempts", tried)
	return nil
}
