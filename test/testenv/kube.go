package testenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// KubeConfig says how a Kubernetes control plane is started.
type KubeConfig struct {
	Dir string    // an existing folder, kept over restarts
	Log io.Writer // of the programs; may be nil
	// Controllers also runs the controllers of Kubernetes that our objects need:
	// removal of namespaces, of what owners leave behind, and service accounts.
	Controllers bool
	// Args are added to the API server's.
	Args []string
}

// Kube is a running etcd with an API server, without nodes.
type Kube struct {
	Dir  string
	Port int // of the API server, on all addresses of this machine
	URL  string
	// CAFile and Token are what an administrator connects with.
	CAFile, Token string
	// Kubeconfig is a file with these.
	Kubeconfig string

	cfg      KubeConfig
	ctx      context.Context //nolint:containedctx // the life of the programs, which outlives each call
	etcdPort int
	etcd     *process
	server   *process
	manager  *process
}

// kubeReady is how long the API server may take to answer: it takes 3 s alone
// and several times that beside other tests.
const kubeReady = 2 * time.Minute

// Users that tests connect as, by token. The administrator may do all; Role
// users hold nothing but what is granted to them.
const (
	kubeAdmin        = "admin"
	kubeAdminToken   = "admin-token"
	OperatorUser     = "system:serviceaccount:flotta:flotta-operator"
	OperatorToken    = "operator-token"
	EdgeAPIUser      = "system:serviceaccount:flotta:flotta-edge-api"
	EdgeAPIToken     = "edge-api-token"
	serviceAddresses = "10.96.0.0/16"
)

// StartKube starts etcd and the API server and returns when it is ready. They
// run until Stop is called or ctx ends.
func StartKube(ctx context.Context, cfg KubeConfig) (*Kube, error) {
	k := &Kube{Dir: cfg.Dir, cfg: cfg, ctx: ctx, Token: kubeAdminToken}
	if err := k.prepare(); err != nil {
		return nil, fmt.Errorf("start kubernetes: %w", err)
	}
	if err := k.start(); err != nil {
		k.Stop()
		return nil, fmt.Errorf("start kubernetes: %w", err)
	}
	return k, nil
}

func (k *Kube) prepare() error {
	var err error
	if k.etcdPort, err = FreePort("127.0.0.1"); err != nil {
		return err
	}
	if k.Port, err = FreePort("0.0.0.0"); err != nil {
		return err
	}
	k.URL = "https://127.0.0.1:" + strconv.Itoa(k.Port)
	k.CAFile = filepath.Join(k.Dir, "certs", "apiserver.crt")
	k.Kubeconfig = filepath.Join(k.Dir, "kubeconfig")
	tokens := fmt.Sprintf("%s,%s,admin,system:masters\n%s,%s,operator,\"system:serviceaccounts,system:serviceaccounts:flotta\"\n%s,%s,edge-api,\"system:serviceaccounts,system:serviceaccounts:flotta\"\n",
		kubeAdminToken, kubeAdmin, OperatorToken, OperatorUser, EdgeAPIToken, EdgeAPIUser)
	if err := os.WriteFile(filepath.Join(k.Dir, "tokens.csv"), []byte(tokens), 0o600); err != nil {
		return err
	}
	if err := writeSigningKey(filepath.Join(k.Dir, "sa.key")); err != nil {
		return err
	}
	return k.WriteKubeconfig(k.Kubeconfig, kubeAdminToken)
}

// WriteKubeconfig writes a file that connects with a token, such as
// OperatorToken.
func (k *Kube) WriteKubeconfig(path, token string) error {
	return os.WriteFile(path, []byte(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: default}}]
current-context: test
`, k.URL, k.CAFile, token)), 0o600)
}

func writeSigningKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func (k *Kube) start() error {
	if err := k.startEtcd(); err != nil {
		return err
	}
	if err := k.StartServer(); err != nil {
		return err
	}
	if !k.cfg.Controllers {
		return nil
	}
	path, err := FindTool("kube-controller-manager")
	if err != nil {
		return err
	}
	port, err := FreePort("127.0.0.1")
	if err != nil {
		return err
	}
	k.manager, err = startProcess(k.ctx, k.cfg.Log, path, []string{
		"--kubeconfig=" + k.Kubeconfig, "--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port),
		"--cert-dir=" + filepath.Join(k.Dir, "manager-certs"), "--leader-elect=false", "--use-service-account-credentials=false",
		"--controllers=namespace-controller,garbage-collector-controller,serviceaccount-controller",
		"--service-account-private-key-file=" + filepath.Join(k.Dir, "sa.key"),
	}, func(*exec.Cmd) {})
	return err
}

func (k *Kube) startEtcd() error {
	path, err := FindTool("etcd")
	if err != nil {
		return err
	}
	client := "http://127.0.0.1:" + strconv.Itoa(k.etcdPort)
	peer, err := FreePort("127.0.0.1")
	if err != nil {
		return err
	}
	k.etcd, err = startProcess(k.ctx, k.cfg.Log, path, []string{
		"--data-dir=" + filepath.Join(k.Dir, "etcd"), "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=http://127.0.0.1:" + strconv.Itoa(peer), "--log-level=warn",
	}, func(*exec.Cmd) {})
	if err != nil {
		return err
	}
	return k.etcd.wait(k.ctx, kubeReady, func(ctx context.Context) error {
		return answersOK(ctx, http.DefaultClient, client+"/health", "")
	})
}

// StartServer starts the API server again after StopServer or KillServer, on the
// same port.
func (k *Kube) StartServer() error {
	path, err := FindTool("kube-apiserver")
	if err != nil {
		return err
	}
	key := filepath.Join(k.Dir, "sa.key")
	args := append([]string{
		"--etcd-servers=http://127.0.0.1:" + strconv.Itoa(k.etcdPort),
		"--bind-address=0.0.0.0", "--advertise-address=127.0.0.1", "--secure-port=" + strconv.Itoa(k.Port),
		"--cert-dir=" + filepath.Join(k.Dir, "certs"), "--token-auth-file=" + filepath.Join(k.Dir, "tokens.csv"),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=" + serviceAddresses,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + key,
		"--service-account-signing-key-file=" + key, "--endpoint-reconciler-type=none",
		"--disable-admission-plugins=ServiceAccount", "--v=0",
	}, k.cfg.Args...)
	k.server, err = startProcess(k.ctx, k.cfg.Log, path, args, func(*exec.Cmd) {})
	if err != nil {
		return err
	}
	return k.server.wait(k.ctx, kubeReady, func(ctx context.Context) error {
		client, err := k.client()
		if err != nil {
			return err
		}
		defer client.CloseIdleConnections()
		if err := answersOK(ctx, client, k.URL+"/readyz", k.Token); err != nil {
			return err
		}
		// Ready comes before the first namespaces.
		return answersOK(ctx, client, k.URL+"/api/v1/namespaces/default", k.Token)
	})
}

// client trusts the certificate that the API server made for itself.
func (k *Kube) client() (*http.Client, error) {
	ca, err := os.ReadFile(k.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the API server's certificate is not written yet")
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}, nil
}

func answersOK(ctx context.Context, client *http.Client, address, token string) error {
	_, err := Fetch(ctx, client, address, token)
	return err
}

// Fetch returns the body of an answer with status 200. The token may be empty.
func Fetch(ctx context.Context, client *http.Client, address, token string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %.500s", address, resp.Status, body)
	}
	return body, err
}

// StopServer ends the API server; etcd goes on.
func (k *Kube) StopServer() { k.server.Stop() }

// KillServer ends the API server at once.
func (k *Kube) KillServer() { k.server.Kill() }

// ServerPID and EtcdPID are for measurements.
func (k *Kube) ServerPID() int { return k.server.PID() }

// EtcdPID returns the process identifier of etcd.
func (k *Kube) EtcdPID() int { return k.etcd.PID() }

// Stop ends all programs.
func (k *Kube) Stop() {
	for _, p := range []*process{k.manager, k.server, k.etcd} {
		if p != nil {
			p.Stop()
		}
	}
}

// Get reads an object, or a list, as the administrator: path is that of the API,
// such as /api/v1/namespaces/default/events.
func (k *Kube) Get(ctx context.Context, path string, into any) error {
	client, err := k.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	body, err := Fetch(ctx, client, k.URL+path, k.Token)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// Kubectl runs kubectl as the administrator, with input on its standard input,
// and returns what it printed.
func (k *Kube) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	path, err := FindTool("kubectl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"KUBECONFIG=" + k.Kubeconfig, "HOME=" + k.Dir, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Apply runs kubectl apply on a manifest and waits for the custom resource
// definitions in it.
func (k *Kube) Apply(ctx context.Context, manifest string) error {
	_, err := k.Kubectl(ctx, manifest, "apply", "-f", "-")
	return err
}

// InstallCRDs applies the custom resource definitions of this repository and
// waits until the API server serves them.
func (k *Kube) InstallCRDs(ctx context.Context) error {
	root, err := Root()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "config/crd/bases")
	if _, err := k.Kubectl(ctx, "", "apply", "--server-side", "-f", dir); err != nil {
		return err
	}
	_, err = k.Kubectl(ctx, "", "wait", "--for=condition=Established", "--timeout=60s", "-f", dir)
	return err
}
