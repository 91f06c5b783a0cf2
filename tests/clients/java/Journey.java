// The AWS SDK for Java as an application uses it; workplace.py says what it is told, test_sdks.py what it must find.
// Started from its source: java -cp 'JARS/*' Journey.java VERB.

import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import software.amazon.awssdk.auth.credentials.AwsCredentialsProvider;
import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;
import software.amazon.awssdk.awscore.client.builder.AwsClientBuilder;
import software.amazon.awssdk.awscore.client.builder.AwsSyncClientBuilder;
import software.amazon.awssdk.awscore.exception.AwsServiceException;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.core.interceptor.Context;
import software.amazon.awssdk.core.interceptor.ExecutionAttributes;
import software.amazon.awssdk.core.interceptor.ExecutionInterceptor;
import software.amazon.awssdk.http.SdkHttpClient;
import software.amazon.awssdk.http.urlconnection.UrlConnectionHttpClient;
import software.amazon.awssdk.services.kms.KmsClient;
import software.amazon.awssdk.services.kms.model.DataKeySpec;
import software.amazon.awssdk.services.kms.model.MacAlgorithmSpec;
import software.amazon.awssdk.services.kms.model.SigningAlgorithmSpec;
import software.amazon.awssdk.services.sts.StsClient;
import software.amazon.awssdk.services.sts.auth.StsAssumeRoleCredentialsProvider;

public class Journey {
    static final String KEY = System.getenv("KEY");
    static final String OTHER_KEY = System.getenv("OTHER_KEY");
    static final String SIGNING_KEY = System.getenv("SIGNING_KEY");
    static final String MAC_KEY = System.getenv("MAC_KEY");
    static final String DISABLED_KEY = System.getenv("DISABLED_KEY");
    static final Map<String, String> CONTEXT = Map.of("tenant", "7", "purpose", "größer");
    static final SdkBytes TEXT = SdkBytes.fromUtf8String("over the wire");

    final SdkHttpClient http;
    final AtomicInteger attempts = new AtomicInteger();

    public static void main(String[] verbs) throws Exception {
        var journey = new Journey();
        switch (verbs[0]) {
            case "journey" -> journey.journey();
            case "workload" -> journey.workload();
            case "flood" -> journey.flood();
            default -> throw new IllegalArgumentException(verbs[0]);
        }
    }

    /** Java has no environment variable for an authority of one's own. */
    Journey() throws Exception {
        var builder = UrlConnectionHttpClient.builder();
        var authority = System.getenv("AWS_CA_BUNDLE");
        if (authority != null) {
            var managers = trust(authority);
            builder.tlsTrustManagersProvider(() -> managers);
        }
        http = builder.build();
    }

    static TrustManager[] trust(String file) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var pem = new FileInputStream(file)) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        var factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        return factory.getTrustManagers();
    }

    <B extends AwsSyncClientBuilder<B, C> & AwsClientBuilder<B, C>, C> C client(B builder, AwsCredentialsProvider credentials) {
        var counter = new ExecutionInterceptor() {
            @Override
            public void beforeTransmission(Context.BeforeTransmission context, ExecutionAttributes attributes) {
                attempts.incrementAndGet();
            }
        };
        return builder.httpClient(http).credentialsProvider(credentials)
                .overrideConfiguration(options -> options.addExecutionInterceptor(counter)).build();
    }

    StsClient sts(AwsCredentialsProvider credentials) {
        return client(StsClient.builder(), credentials);
    }

    AwsCredentialsProvider assume(String role) {
        return StsAssumeRoleCredentialsProvider.builder().stsClient(sts(DefaultCredentialsProvider.builder().build()))
                .refreshRequest(request -> request.roleArn(System.getenv(role)).roleSessionName("java")).build();
    }

    static void say(String name, Object value) {
        System.out.println(name + "=" + value);
    }

    static void fails(String name, Runnable call) {
        try {
            call.run();
            say("error." + name, "none");
        } catch (AwsServiceException error) {
            say("error." + name, error.awsErrorDetails().errorCode() + " " + error.getClass().getSimpleName());
        }
    }

    void journey() {
        say("caller", sts(DefaultCredentialsProvider.builder().build()).getCallerIdentity().arn());
        var session = assume("WORKER");
        say("worker", sts(session).getCallerIdentity().arn());
        var worker = client(KmsClient.builder(), session);
        sealing(worker, client(KmsClient.builder(), assume("VISITOR")));
        signing(worker);
        looking(worker);
    }

    static void sealing(KmsClient worker, KmsClient visitor) {
        var sealed = worker.encrypt(request -> request.keyId(KEY).plaintext(TEXT).encryptionContext(CONTEXT));
        say("request", sealed.responseMetadata().requestId());
        var blob = sealed.ciphertextBlob();
        say("opened", worker.decrypt(request -> request.ciphertextBlob(blob).encryptionContext(CONTEXT)).plaintext().asUtf8String());

        var dataKey = worker.generateDataKey(request -> request.keyId(KEY).keySpec(DataKeySpec.AES_256));
        var again = worker.decrypt(request -> request.ciphertextBlob(dataKey.ciphertextBlob()));
        say("data_key", dataKey.plaintext().asByteArray().length == 32
                && Arrays.equals(dataKey.plaintext().asByteArray(), again.plaintext().asByteArray()));

        var moved = worker.reEncrypt(request -> request.ciphertextBlob(blob).sourceEncryptionContext(CONTEXT)
                .destinationKeyId(OTHER_KEY));
        say("reopened", worker.decrypt(request -> request.ciphertextBlob(moved.ciphertextBlob()).keyId(OTHER_KEY)).plaintext()
                .asUtf8String());

        fails("wrong_context", () -> worker.decrypt(request -> request.ciphertextBlob(blob).encryptionContext(Map.of("tenant", "8"))));
        fails("wrong_key", () -> worker.decrypt(request -> request.ciphertextBlob(blob).encryptionContext(CONTEXT).keyId(OTHER_KEY)));
        fails("refused", () -> visitor.decrypt(request -> request.ciphertextBlob(blob).encryptionContext(CONTEXT)));
        fails("disabled", () -> worker.encrypt(request -> request.keyId(DISABLED_KEY).plaintext(TEXT)));
        fails("usage", () -> worker.encrypt(request -> request.keyId(SIGNING_KEY).plaintext(TEXT)));
        fails("too_long", () -> worker.encrypt(request -> request.keyId(KEY).plaintext(SdkBytes.fromByteArray(new byte[4097]))));
    }

    static void signing(KmsClient worker) {
        var message = SdkBytes.fromUtf8String("signed");
        var forged = SdkBytes.fromUtf8String("forged");
        var algorithm = SigningAlgorithmSpec.ECDSA_SHA_256;
        var signature = worker.sign(request -> request.keyId(SIGNING_KEY).message(message).signingAlgorithm(algorithm)).signature();
        say("signature", worker.verify(request -> request.keyId(SIGNING_KEY).message(message).signature(signature)
                .signingAlgorithm(algorithm)).signatureValid());
        fails("forged", () -> worker.verify(request -> request.keyId(SIGNING_KEY).message(forged).signature(signature)
                .signingAlgorithm(algorithm)));

        var hmac = MacAlgorithmSpec.HMAC_SHA_256;
        var mac = worker.generateMac(request -> request.keyId(MAC_KEY).message(message).macAlgorithm(hmac)).mac();
        say("mac", worker.verifyMac(request -> request.keyId(MAC_KEY).message(message).mac(mac).macAlgorithm(hmac)).macValid());
        fails("forged_mac", () -> worker.verifyMac(request -> request.keyId(MAC_KEY).message(forged).mac(mac).macAlgorithm(hmac)));
    }

    static void looking(KmsClient worker) {
        say("created", worker.describeKey(request -> request.keyId(KEY)).keyMetadata().creationDate().getEpochSecond());
        say("listed", worker.listKeysPaginator(request -> request.limit(2)).keys().stream().count());
        fails("missing", () -> worker.describeKey(request -> request.keyId("alias/nothing-here")));
    }

    /** With whatever credentials the SDK finds by itself. */
    void workload() {
        var found = DefaultCredentialsProvider.builder().build();
        say("caller", sts(found).getCallerIdentity().arn());
        var dataKey = client(KmsClient.builder(), found).generateDataKey(request -> request.keyId(KEY).keySpec(DataKeySpec.AES_256));
        say("length", dataKey.plaintext().asByteArray().length);
    }

    /** More calls than the quota lets through at once. */
    void flood() {
        var worker = client(KmsClient.builder(), assume("WORKER"));
        worker.describeKey(request -> request.keyId(KEY));
        attempts.set(0);
        for (int call = 0; call < Integer.parseInt(System.getenv("CALLS")); call++) {
            worker.getKeyRotationStatus(request -> request.keyId(KEY));
        }
        say("attempts", attempts.get());
    }
}
