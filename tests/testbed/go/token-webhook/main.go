// Command token-webhook stands where EKS's authenticator stands: the API server sends it each bearer token that it does
// not know, and it answers which user that is.
//
// The token is verified by aws-iam-authenticator's own verifier. What the verifier would send to AWS STS goes to the
// emulator instead, over plain HTTP with the signed Host header kept; every other host is refused. A verified role is then
// looked up among the access entries, which are read again for every token, as changing one takes effect at once on EKS.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	authentication "k8s.io/api/authentication/v1"
	"sigs.k8s.io/aws-iam-authenticator/pkg/token"
)

func main() {
	listen := flag.String("listen", "", "address to serve on, such as 127.0.0.1:9000")
	certificate := flag.String("certificate", "", "file of the serving certificate")
	key := flag.String("key", "", "file of the serving certificate's key")
	cluster := flag.String("cluster", "", "cluster name that tokens must be signed for")
	region := flag.String("region", "", "AWS region of the cluster")
	sts := flag.String("sts", "", "host and port of the STS emulator")
	entries := flag.String("access-entries", "", "file of the access entries, JSON")
	flag.Parse()

	// The verifier builds its client on http.DefaultTransport and offers no other way in.
	http.DefaultTransport = emulatedSTS{address: *sts}
	webhook := webhook{
		verifier: token.NewVerifier(*cluster, "aws", *region),
		entries:  *entries,
	}
	server := &http.Server{
		Addr:              *listen,
		Handler:           webhook,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12},
	}
	log.Fatal(server.ListenAndServeTLS(*certificate, *key))
}

// webhook answers TokenReviews of the API server.
// https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication
type webhook struct {
	verifier token.Verifier
	entries  string
}

func (webhook webhook) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	if request.URL.Path == "/healthz" {
		response.WriteHeader(http.StatusOK)
		return
	}
	var review authentication.TokenReview
	if err := json.NewDecoder(http.MaxBytesReader(response, request.Body, 1<<20)).Decode(&review); err != nil {
		http.Error(response, "the body is not a TokenReview: "+err.Error(), http.StatusBadRequest)
		return
	}
	user, err := webhook.user(review.Spec.Token)
	review.Spec.Token = ""
	if err != nil {
		// The verifier's errors describe the token's fault and never hold the token.
		log.Printf("refused: %v", err)
		review.Status = authentication.TokenReviewStatus{Error: err.Error()}
	} else {
		log.Printf("accepted: %s", user.Username)
		review.Status = authentication.TokenReviewStatus{Authenticated: true, User: *user}
	}
	response.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(response).Encode(review); err != nil {
		log.Printf("answer the API server: %v", err)
	}
}

// user verifies the bearer token and maps the role that signed it.
func (webhook webhook) user(bearer string) (*authentication.UserInfo, error) {
	identity, err := webhook.verifier.Verify(bearer)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(webhook.entries)
	if err != nil {
		return nil, fmt.Errorf("read the access entries: %w", err)
	}
	var entries []accessEntry
	if err := json.Unmarshal(content, &entries); err != nil {
		return nil, fmt.Errorf("parse the access entries of %s: %w", webhook.entries, err)
	}
	for _, entry := range entries {
		if strings.EqualFold(entry.PrincipalARN, identity.CanonicalARN) {
			return &authentication.UserInfo{
				Username: strings.NewReplacer(
					"{{AccountID}}", identity.AccountID,
					"{{SessionName}}", identity.SessionName,
				).Replace(entry.Username),
				UID:    "aws-iam-authenticator:" + identity.AccountID + ":" + identity.UserID,
				Groups: entry.KubernetesGroups,
			}, nil
		}
	}
	return nil, fmt.Errorf("%s has no access entry", identity.CanonicalARN)
}

// accessEntry is what EKS keeps for a principal.
// https://docs.aws.amazon.com/eks/latest/APIReference/API_AccessEntry.html
type accessEntry struct {
	PrincipalARN     string   `json:"principalArn"`
	Username         string   `json:"username"`
	KubernetesGroups []string `json:"kubernetesGroups"`
}
