package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/edgeapi/backend/file"
	"github.com/project-flotta/flotta-agent/internal/edgeapi/backend/kube"
	"github.com/project-flotta/flotta-agent/internal/edgeapi/backend/remote"
	"github.com/project-flotta/flotta-agent/internal/pki"
)

// controlNamespace is where the identity material is, as in flotta v0.2.
const controlNamespace = "flotta"

// keys are the authority and the certificates, wherever they are kept.
type keys interface {
	Authority() *pki.Authority
	Certificate() (*tls.Certificate, error)
	Register() (pki.KeyPair, error)
	Run(ctx context.Context) error
}

// source is what the server answers from.
type source struct {
	backend edgeapi.Backend
	keys    keys
	run     []func(context.Context) error // of what has to run beside the server
	close   func() error
}

// openSource opens the backend that the settings name, with its keys.
func openSource(ctx context.Context, s settings, registry *prometheus.Registry, log *slog.Logger) (source, error) {
	switch s.backend {
	case backendFile:
		return openFile(ctx, s, log)
	case backendRemote:
		return openRemote(ctx, s, registry, log)
	}
	return openKube(ctx, s, registry, log)
}

func openFile(ctx context.Context, s settings, log *slog.Logger) (source, error) {
	backend, err := file.New(file.Config{Dir: s.dir, AutoApprove: s.autoApprove, Logger: log.With("component", "backend")})
	if err != nil {
		return source{}, err
	}
	if err := backend.Open(ctx); err != nil {
		return source{}, err
	}
	k, err := openKeys(ctx, s, s.hosts(), log)
	if err != nil {
		return source{}, errors.Join(err, backend.Close())
	}
	return source{backend: backend, keys: k, run: []func(context.Context) error{backend.Run, k.Run}, close: backend.Close}, nil
}

func openKube(ctx context.Context, s settings, registry *prometheus.Registry, log *slog.Logger) (source, error) {
	cluster, err := s.cluster()
	if err != nil {
		return source{}, err
	}
	k, err := openKeys(ctx, s, s.hosts(), log)
	if err != nil {
		return source{}, err
	}
	backend, err := kube.New(kube.Config{
		REST: cluster, Namespaces: s.namespaces, Registerer: registry, Logger: log.With("component", "backend"),
	})
	if err != nil {
		return source{}, err
	}
	return source{backend: backend, keys: k, run: []func(context.Context) error{backend.Run, k.Run}}, nil
}

func openRemote(ctx context.Context, s settings, registry *prometheus.Registry, log *slog.Logger) (source, error) {
	k, err := openKeys(ctx, s, s.hosts(), log)
	if err != nil {
		return source{}, err
	}
	backend, err := remote.New(remote.Config{
		URL: s.remoteURL, Timeout: s.remoteTimeout, ClientCertificate: k.Certificate, RootCAs: k.Authority().CertificatePEM(),
		Registerer: registry, Logger: log.With("component", "backend"),
	})
	if err != nil {
		return source{}, err
	}
	return source{backend: backend, keys: k, run: []func(context.Context) error{k.Run}}, nil
}

// openKeys opens the keys: those of the cluster, except with the file backend,
// or with the remote one where FILE_BACKEND_DIR says that there is no cluster.
func openKeys(ctx context.Context, s settings, h hosts, log *slog.Logger) (keys, error) {
	log = log.With("component", "keys")
	if s.backend == backendFile || s.backend == backendRemote && s.dirSet {
		return file.OpenKeys(ctx, file.KeysConfig{Dir: s.dir, DNSNames: h.names, IPs: h.addresses, Logger: log})
	}
	cluster, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return kube.OpenKeys(ctx, kube.KeysConfig{REST: cluster, Namespace: controlNamespace, DNSNames: h.names, IPs: h.addresses, Logger: log})
}

// cluster returns how the API server is reached: by KUBECONFIG, or as a pod.
func (s settings) cluster() (*rest.Config, error) {
	var config *rest.Config
	var err error
	if s.kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	} else {
		config, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes (set KUBECONFIG outside of a cluster, or BACKEND=%s): %w", backendFile, err)
	}
	return config, nil
}
