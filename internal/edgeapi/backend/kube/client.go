package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Plural names of resources.
const (
	edgeDevices        = "edgedevices"
	edgeDeviceSets     = "edgedevicesets"
	edgeWorkloads      = "edgeworkloads"
	signedRequests     = "edgedevicesignedrequest"
	playbookExecutions = "playbookexecutions"
)

// client speaks with the API server.
type client struct {
	flotta     *rest.RESTClient // kinds of ours
	core       corev1client.CoreV1Interface
	metadata   metadata.Interface
	parameters runtime.ParameterCodec
}

const userAgent = "flotta-edge-api"

func newClient(base *rest.Config) (*client, error) {
	cfg := rest.CopyConfig(base)
	// What is sent follows from what devices do, and the API server has its own
	// way to bound it. Without this the limit would be 5 requests a second.
	cfg.QPS, cfg.RateLimiter = -1, nil
	if cfg.UserAgent == "" {
		cfg.UserAgent = userAgent
	}
	transport, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	c := &client{parameters: runtime.NewParameterCodec(scheme)}
	if c.flotta, err = restClient(cfg, transport, scheme); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	core := rest.CopyConfig(cfg)
	core.ContentType = runtime.ContentTypeProtobuf
	core.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if c.core, err = corev1client.NewForConfigAndClient(core, transport); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if c.metadata, err = metadata.NewForConfigAndClient(metadata.ConfigFor(cfg), transport); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return c, nil
}

func restClient(base *rest.Config, transport *http.Client, scheme *runtime.Scheme) (*rest.RESTClient, error) {
	cfg := rest.CopyConfig(base)
	version := v1alpha1.GroupVersion()
	cfg.GroupVersion = &version
	cfg.APIPath = "/apis"
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientForConfigAndClient(cfg, transport)
}

// device reads an EdgeDevice as it is now.
func (c *client) device(ctx context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error) {
	object := &v1alpha1.EdgeDevice{}
	err := c.flotta.Get().Namespace(namespace).Resource(edgeDevices).Name(name).Do(ctx).Into(object)
	return object, err
}

// request reads an EdgeDeviceSignedRequest as it is now.
func (c *client) request(ctx context.Context, name string) (*v1alpha1.EdgeDeviceSignedRequest, error) {
	object := &v1alpha1.EdgeDeviceSignedRequest{}
	err := c.flotta.Get().Namespace(v1alpha1.DefaultNamespace).Resource(signedRequests).Name(name).Do(ctx).Into(object)
	return object, err
}

func (c *client) playbook(ctx context.Context, namespace, name string) (*v1alpha1.PlaybookExecution, error) {
	object := &v1alpha1.PlaybookExecution{}
	err := c.flotta.Get().Namespace(namespace).Resource(playbookExecutions).Name(name).Do(ctx).Into(object)
	return object, err
}

func (c *client) createRequest(ctx context.Context, r *v1alpha1.EdgeDeviceSignedRequest) error {
	return c.flotta.Post().Namespace(r.Namespace).Resource(signedRequests).Body(r).Do(ctx).Error()
}

// precondition is the part of an object's metadata that a write is bound to.
type precondition struct {
	Name            string    `json:"name,omitempty"`
	Namespace       string    `json:"namespace,omitempty"`
	UID             types.UID `json:"uid,omitempty"`
	ResourceVersion string    `json:"resourceVersion"`
}

func preconditionOf(o metav1.Object) precondition {
	return precondition{Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion()}
}

// putStatus writes the status of an object as one that was read; into gets the
// object as it is then. The rest of the object need not be sent, as it cannot
// be changed so.
func (c *client) putStatus(ctx context.Context, resource, kind string, of metav1.Object, status any, into runtime.Object) error {
	body, err := json.Marshal(struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        precondition `json:"metadata"`
		Status          any          `json:"status"`
	}{metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: kind}, preconditionOf(of), status})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	return c.flotta.Put().Namespace(of.GetNamespace()).Resource(resource).Name(of.GetName()).SubResource("status").
		Body(body).Do(ctx).Into(into)
}

// patchMetadata changes some labels and annotations of a device, nil removing
// one, and returns the device as it is then.
func (c *client) patchMetadata(ctx context.Context, of *v1alpha1.EdgeDevice, labels, annotations map[string]*string) (*v1alpha1.EdgeDevice, error) {
	type patch struct {
		UID             types.UID          `json:"uid"`
		ResourceVersion string             `json:"resourceVersion"`
		Labels          map[string]*string `json:"labels,omitempty"`
		Annotations     map[string]*string `json:"annotations,omitempty"`
	}
	body, err := json.Marshal(map[string]patch{"metadata": {of.UID, of.ResourceVersion, labels, annotations}})
	if err != nil {
		return nil, fmt.Errorf("encode patch: %w", err)
	}
	object := &v1alpha1.EdgeDevice{}
	err = c.flotta.Patch(types.MergePatchType).Namespace(of.Namespace).Resource(edgeDevices).Name(of.Name).
		Body(body).Do(ctx).Into(object)
	return object, err
}

// routes is where the API of OpenShift's Routes is, in clusters that have it.
const routes = "/apis/route.openshift.io/v1"

// routeHost reads an OpenShift Route. A cluster that has none says not found.
func (c *client) routeHost(ctx context.Context, namespace, name string) (string, error) {
	raw, err := c.flotta.Get().AbsPath(routes, "namespaces", namespace, "routes", name).DoRaw(ctx)
	if apierrors.IsForbidden(err) {
		// What is not there is forbidden as well, and everybody may ask which
		// APIs there are.
		if _, unknown := c.flotta.Get().AbsPath(routes).DoRaw(ctx); apierrors.IsNotFound(unknown) {
			err = unknown
		}
	}
	if err != nil {
		return "", err
	}
	var route struct {
		Spec struct {
			Host string `json:"host"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &route); err != nil {
		return "", fmt.Errorf("decode route %s/%s: %w", namespace, name, err)
	}
	return route.Spec.Host, nil
}

func (c *client) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return c.core.Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (c *client) configMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return c.core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}
