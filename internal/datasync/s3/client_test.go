package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

// fake is a store that answers as a test wants it to.
func fake(t *testing.T, change func(*Config), answer http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewTLSServer(answer)
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(at.Port())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Host: at.Hostname(), Port: port, Bucket: "bucket", AccessKeyID: secret.New("key"), SecretAccessKey: secret.New("the-secret"),
		CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		Attempts: 1,
	}
	if change != nil {
		change(&cfg)
	}
	client, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
}

func upload(key, data string) Upload {
	sum := sha256.Sum256([]byte(data))
	return Upload{Key: key, Body: strings.NewReader(data), Size: int64(len(data)), MTime: time.Unix(1, 2), Mode: 0o644, SHA256: sum[:]}
}

func TestChecksumsAreGivenUpForStoresThatRefuseThem(t *testing.T) {
	t.Parallel()
	for _, refusal := range []struct {
		status int
		code   string
	}{{501, "NotImplemented"}, {400, "InvalidArgument"}, {403, "SignatureDoesNotMatch"}, {400, "XAmzContentSHA256Mismatch"}} {
		for _, large := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s large=%v", refusal.code, large), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var refused, stored int
				client := fake(t, nil, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					mu.Lock()
					defer mu.Unlock()
					for name := range r.Header {
						if strings.HasPrefix(strings.ToLower(name), "x-amz-checksum") || strings.EqualFold(name, "x-amz-trailer") {
							refused++
							refuse(w, refusal.status, refusal.code)
							return
						}
					}
					switch {
					case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
						_, _ = fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
					case r.Method == http.MethodPost:
						_, _ = fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>`)
					case r.Method == http.MethodPut:
						stored++
						w.Header().Set("ETag", `"e"`)
					}
				})
				u := upload("k", "data")
				parts := 1
				if large {
					u = upload("k", strings.Repeat("0123456789abcdef", defaultPartBytes/16*2+1))
					parts = 3
				}
				for range 2 {
					etag, err := client.Put(t.Context(), u)
					if err != nil || etag != "e" {
						t.Fatalf("put: %q, %v", etag, err)
					}
				}
				if stored != 2*parts || refused == 0 || refused > parallelParts {
					t.Errorf("%d requests stored, %d refused", stored, refused)
				}
				if !client.plain.Load() {
					t.Error("the refusal is not remembered")
				}
			})
		}
	}
}

func TestFailuresHaveKinds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{404, "NoSuchKey", ErrNotFound},
		{404, "NoSuchBucket", ErrNoBucket},
		{404, "SomethingElse", ErrRefused},
		{403, "InvalidAccessKeyId", ErrCredentials},
		{403, "SignatureDoesNotMatch", ErrCredentials},
		{403, "AccessDenied", ErrDenied},
		{403, "Whatever", ErrDenied},
		{503, "SlowDown", ErrUnavailable},
		{500, "InternalError", ErrUnavailable},
		{502, "Bad", ErrUnavailable},
		{429, "TooManyRequests", ErrUnavailable},
		{501, "NotImplemented", ErrRefused},
		{400, "BadDigest", ErrDigest},
		{400, "KeyTooLongError", ErrRefused},
		{301, "PermanentRedirect", ErrRefused},
	} {
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			client := fake(t, nil, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				refuse(w, c.status, c.code)
			})
			_, _, err := client.Get(t.Context(), "k")
			if !errors.Is(err, c.want) {
				t.Errorf("get: %v", err)
			}
			_, err = client.Put(t.Context(), upload("k", "x"))
			if !errors.Is(err, c.want) {
				t.Errorf("put: %v", err)
			}
			var typed *Error
			if !errors.As(err, &typed) || typed.Code != c.code || typed.Status != c.status {
				t.Errorf("error %#v", err)
			}
			if strings.Contains(err.Error(), "the-secret") {
				t.Errorf("the secret is in %q", err)
			}
		})
	}
}

func TestListingDecodesKeysAndFollowsPages(t *testing.T) {
	t.Parallel()
	pages := map[string]string{
		"":  `<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken><Contents><Key>a+b%2Bc%0A%01</Key><Size>3</Size><ETag>"x"</ETag></Contents></ListBucketResult>`,
		"n": `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken><Contents><Key>a+b%2B</Key></Contents></ListBucketResult>`,
	}
	client := fake(t, nil, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, pages[r.URL.Query().Get("continuation-token")])
	})
	var keys []string
	err := client.List(t.Context(), "a", func(page []Object) error {
		for _, o := range page {
			keys = append(keys, o.Key)
		}
		return nil
	})
	// The second page says that there is more and gives its own token: no loop.
	if diff := cmp.Diff([]string{"a b+c\n\x01", "a+b%2B"}, keys); diff != "" || err != nil {
		t.Errorf("%s (err %v)", diff, err)
	}
}

func TestCutBodyIsAFailure(t *testing.T) {
	t.Parallel()
	client := fake(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	_, body, err := client.Get(t.Context(), "k")
	if err == nil {
		_, err = io.ReadAll(body)
		_ = body.Close()
	}
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestFailedUploadInPartsIsAborted(t *testing.T) {
	t.Parallel()
	aborted := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	client := fake(t, nil, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			_, _ = fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
		case http.MethodDelete:
			aborted <- r.URL.Query().Get("uploadId")
		default:
			cancel() // and the part is never answered
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}
	})
	_, err := client.Put(ctx, upload("k", strings.Repeat("x", defaultPartBytes+1)))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if id := <-aborted; id != "u" {
		t.Errorf("aborted %q", id)
	}
}

func TestConfigIsValidated(t *testing.T) {
	t.Parallel()
	good := Config{Host: "h", Bucket: "b", AccessKeyID: secret.New("k"), SecretAccessKey: secret.New("s")}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"Host":        func(c *Config) { c.Host = "" },
		"Port":        func(c *Config) { c.Port = 70000 },
		"Bucket":      func(c *Config) { c.Bucket = "" },
		"AccessKeyID": func(c *Config) { c.AccessKeyID = secret.Value{} },
		"PartBytes":   func(c *Config) { c.PartBytes = 1 },
		"CA":          func(c *Config) { c.CABundle = []byte("no certificate") },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPartsFitTheProtocol(t *testing.T) {
	t.Parallel()
	for _, total := range []int64{1, defaultPartBytes, 160_000 << 20, 5 << 40} {
		size := partSize(total, defaultPartBytes)
		if parts := (total + size - 1) / size; parts > maxParts || size < defaultPartBytes {
			t.Errorf("%d bytes: %d parts of %d", total, parts, size)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add("1700000000.123456789", "644", strings.Repeat("ab", 32))
	f.Add("-1.5", "7777", "zz")
	f.Fuzz(func(t *testing.T, mtime, mode, sum string) {
		var o Object
		o.addMetadata(map[string]string{metaMTime: mtime, "Flotta-Mode": mode, metaSHA256: sum})
		if o.Mode > 0o777 || (o.SHA256 != nil && len(o.SHA256) != 32) {
			t.Errorf("%+v", o)
		}
		if !o.MTime.IsZero() && !parseMTime(formatMTime(o.MTime)).Equal(o.MTime) {
			t.Errorf("time %v does not survive", o.MTime)
		}
	})
}

func TestMetadataSurvives(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{time.Unix(0, 0), time.Unix(-5, 7), time.Unix(1700000000, 999999999)} {
		if got := parseMTime(formatMTime(at)); !got.Equal(at) {
			t.Errorf("%v became %v", at, got)
		}
	}
	u := upload("k", "x")
	o := Object{}
	o.addMetadata(u.metadata())
	if o.Mode != 0o644 || !o.MTime.Equal(u.MTime) || !bytes.Equal(o.SHA256, u.SHA256) {
		t.Errorf("%+v", o)
	}
}
