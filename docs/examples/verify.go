// Verifies that a request comes from the edge. Needs the standard library alone.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// What a signature must cover, always in this order.
var components = []string{
	"@method", "@path", "@query", "x-user-id", "x-client-id", "x-user-role", "x-user-tier", "x-user-email",
	"x-user-permissions", "x-request-id",
}

// Seconds that a signature is good for, and by which our clock may be behind.
const window = 60

var input = regexp.MustCompile(`^edge=(\("` + strings.Join(components, `" "`) +
	`"\);created=([0-9]{1,12});nonce="([0-9a-f]{32})";keyid="([A-Za-z0-9._-]{1,64})"` +
	`;alg="hmac-sha256";tag="persona-identity")$`)
var signature = regexp.MustCompile(`^edge=:([A-Za-z0-9+/]+={0,2}):$`)

// Seen is a request as it came; Target is path and query as on the wire.
type Seen struct {
	Method  string
	Target  string
	Headers [][2]string
}

// Verify gives the nonce of a good signature, for those who refuse one that came before. Keys are secrets by their
// ids; now is in seconds since 1970.
func Verify(seen Seen, keys map[string]string, now int64) (string, error) {
	said, err := seen.header("x-identity-signature-input")
	if err != nil {
		return "", err
	}
	given, err := seen.header("x-identity-signature")
	if err != nil {
		return "", err
	}
	params, bytes := input.FindStringSubmatch(said), signature.FindStringSubmatch(given)
	if params == nil || bytes == nil {
		return "", errors.New("another kind of signature")
	}
	created, err := strconv.ParseInt(params[2], 10, 64)
	if err != nil || created+window < now || created > now+window {
		return "", errors.New("too old, or of the future")
	}
	secret, known := keys[params[4]]
	if !known {
		return "", errors.New("an unknown key")
	}
	base, err := seen.base(params[1])
	if err != nil {
		return "", err
	}
	sent, err := base64.StdEncoding.DecodeString(bytes[1])
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(base))
	if err != nil || !hmac.Equal(mac.Sum(nil), sent) {
		return "", errors.New("a wrong signature")
	}
	return params[3], nil
}

// The one value of a header.
func (seen Seen) header(name string) (string, error) {
	var values []string
	for _, header := range seen.Headers {
		if strings.EqualFold(header[0], name) {
			values = append(values, strings.TrimSpace(header[1]))
		}
	}
	if len(values) != 1 {
		return "", fmt.Errorf("%s is missing, or there twice", name)
	}
	return values[0], nil
}

func (seen Seen) base(params string) (string, error) {
	path, query, _ := strings.Cut(seen.Target, "?")
	derived := map[string]string{"@method": seen.Method, "@path": path, "@query": "?" + query}
	var base strings.Builder
	for _, name := range components {
		value, isDerived := derived[name]
		if !isDerived {
			var err error
			if value, err = seen.header(name); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(&base, "%q: %s\n", name, value)
	}
	return base.String() + `"@signature-params": ` + params, nil
}

// One JSON object on standard input: method, target, headers, keys, now.
func main() {
	var asked struct {
		Seen
		Keys map[string]string
		Now  int64
	}
	err := json.NewDecoder(os.Stdin).Decode(&asked)
	if err == nil {
		var nonce string
		if nonce, err = Verify(asked.Seen, asked.Keys, asked.Now); err == nil {
			fmt.Println(nonce)
			return
		}
	}
	fmt.Fprintln(os.Stderr, "refused:", err)
	os.Exit(1)
}
