//go:build bench

package fleet_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/bench/fleet"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// bound gives the Edge API its rights in the namespace of the devices.
const bound = `apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flotta-edge-api-device-objects, namespace: ` + namespace + `}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flotta-edge-api-device-objects}
subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]
`

// openCluster starts etcd, the API server, the operator and the Edge API, the
// latter two with the rights that they have in a cluster.
func (r *rig) openCluster(figures *report) {
	r.Helper()
	dir := r.TempDir()
	var err error
	r.kube, err = testenv.StartKube(context.WithoutCancel(r.Context()), testenv.KubeConfig{Dir: dir})
	must(r.T, err)
	r.Cleanup(func() { r.stopAPIs(); r.kube.Stop() })
	must(r.T, r.kube.InstallCRDs(r.Context()))
	_, err = r.kube.Kubectl(r.Context(), "", "apply", "-k", filepath.Join(r.root, "config/rbac"))
	must(r.T, err)
	must(r.T, r.kube.Apply(r.Context(), bound+r.manifest()))
	r.others = []fleet.Process{{Name: "apiserver", PID: r.kube.ServerPID()}, {Name: "etcd", PID: r.kube.EtcdPID()}}

	r.ceiling(figures)

	operator := filepath.Join(dir, "operator.kubeconfig")
	must(r.T, r.kube.WriteKubeconfig(operator, testenv.OperatorToken))
	r.operator, err = testenv.StartOperator(context.WithoutCancel(r.Context()), testenv.OperatorConfig{
		Binary: r.program("flotta-operator"), Kubeconfig: operator,
		Env: []string{"AUTO_APPROVAL_PROCESS=true", "LOG_LEVEL=info", "ALLOWED_NAMESPACES=" + namespace},
	})
	must(r.T, err)
	r.Cleanup(r.operator.Stop)
	process, err := fleet.FindChild("operator", "KUBECONFIG="+operator)
	must(r.T, err)
	r.others = append(r.others, process)

	api := filepath.Join(dir, "edge-api.kubeconfig")
	must(r.T, r.kube.WriteKubeconfig(api, testenv.EdgeAPIToken))
	r.env = []string{"BACKEND=crd", "KUBECONFIG=" + api, "ALLOWED_NAMESPACES=" + namespace}
	r.startAPI(r.TempDir())
	r.bootstrap()
	r.seed = r.create
}

// bootstrap reads the identity material that the Edge API made.
func (r *rig) bootstrap() {
	r.Helper()
	var ca corev1.Secret
	var registers corev1.SecretList
	const path = "/api/v1/namespaces/flotta/secrets"
	must(r.T, r.until(30*time.Second, func() error {
		err := errors.Join(
			r.kube.Get(r.Context(), path+"/flotta-ca", &ca),
			r.kube.Get(r.Context(), path+"?labelSelector=reg-client-ca%3Dtrue", &registers),
		)
		if err == nil && len(registers.Items) == 0 {
			err = errors.New("there is no register secret")
		}
		return err
	}))
	register := registers.Items[0].Data
	r.trust(ca.Data["ca.crt"], ca.Data["ca.key"], register["client.crt"], register["client.key"])
}

// admin is an HTTP client that trusts the API server.
func (r *rig) admin() (*http.Client, error) {
	ca, err := os.ReadFile(r.kube.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}, nil
}

// create makes the objects of devices by the API, as they are once a device has
// registered and the operator has matched its workloads. The operator is stopped
// before: that it looks at each of them is not what is measured.
func (r *rig) create(devices []*fleet.Device) {
	r.Helper()
	r.operator.Stop()
	r.createObjects(devices)
	r.known(devices)
}

func (r *rig) createObjects(devices []*fleet.Device) []*v1alpha1.EdgeDevice {
	r.Helper()
	kube := r.administrator()
	objects := make([]*v1alpha1.EdgeDevice, len(devices))
	_, err := fleet.Each(r.Context(), len(devices), r.settings.workers, func(number, _ int) error {
		object, err := r.object(devices[number])
		if err != nil {
			return err
		}
		status := object.Status
		if err := kube.Create(r.Context(), object); err != nil {
			return fmt.Errorf("create device: %w", err)
		}
		object.Status = status
		if err := kube.Status().Update(r.Context(), object); err != nil {
			return fmt.Errorf("write status of device: %w", err)
		}
		objects[number] = object
		return nil
	})
	must(r.T, err)
	return objects
}
