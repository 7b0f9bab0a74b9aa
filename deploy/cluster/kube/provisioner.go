package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	provisionerName      = "tidegate.dev/local"
	selectedNode         = "volume.kubernetes.io/selected-node"
	provisionedBy        = "pv.kubernetes.io/provisioned-by"
	hostname             = "kubernetes.io/hostname"
	folderMode           = 0o770
	resyncPeriod         = 0 // watches suffice; a broken one lists again by itself
	provisionerUserAgent = "local-provisioner"
)

// provisioner makes a folder and a `local` persistent volume for each claim whose pod has been scheduled, and deletes both when the claim has
// gone and the policy says Delete. Unlike the controller manager's hostPath volumes, local ones obey a pod's fsGroup and stay on their node.
type provisioner struct {
	client kubernetes.Interface
	folder string
	class  func(name string) *string
}

// runProvisioner serves until the process is ended.
func runProvisioner(arguments []string) error {
	flags := flag.NewFlagSet("local-provisioner", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "an administrator's kubeconfig")
	folder := flags.String("folder", "", "where the volumes' folders are made")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.UserAgent = provisionerUserAgent
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	maker := &provisioner{client: client, folder: *folder}
	factory := informers.NewSharedInformerFactory(client, resyncPeriod)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes()
	classes := factory.Storage().V1().StorageClasses()
	// The policy of a class of ours; nil for others.
	maker.class = func(name string) *string {
		class, err := classes.Lister().Get(name)
		if err != nil || class.Provisioner != provisionerName {
			return nil
		}
		policy := string(core.PersistentVolumeReclaimDelete)
		if class.ReclaimPolicy != nil {
			policy = string(*class.ReclaimPolicy)
		}
		return &policy
	}
	classes.Informer()
	factory.Start(wait.NeverStop)
	cache.WaitForCacheSync(wait.NeverStop, classes.Informer().HasSynced)
	_, err = claims.Informer().AddEventHandler(handler(func(claim *core.PersistentVolumeClaim) { report(maker.provision(claim)) }))
	if err != nil {
		return err
	}
	_, err = volumes.Informer().AddEventHandler(handler(func(volume *core.PersistentVolume) { report(maker.collect(volume)) }))
	if err != nil {
		return err
	}
	factory.Start(wait.NeverStop)
	select {}
}

func handler[T any](act func(T)) cache.ResourceEventHandlerFuncs {
	see := func(object any) {
		if typed, ok := object.(T); ok {
			act(typed)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, object any) { see(object) }}
}

func report(err error) {
	if err != nil {
		log.Print(err)
	}
}

// provision makes the volume of a pending claim whose node has been chosen; the controller manager binds the two.
func (p *provisioner) provision(claim *core.PersistentVolumeClaim) error {
	node := claim.Annotations[selectedNode]
	if claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil || node == "" {
		return nil
	}
	policy := p.class(*claim.Spec.StorageClassName)
	if policy == nil {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.folder, name)
	if err := os.MkdirAll(path, folderMode); err != nil {
		return err
	}
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: core.PersistentVolumeSpec{
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			ClaimRef:                      &core.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimPolicy(*policy),
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			StorageClassName:              *claim.Spec.StorageClassName,
			VolumeMode:                    claim.Spec.VolumeMode,
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
				MatchExpressions: []core.NodeSelectorRequirement{{Key: hostname, Operator: core.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(context.Background(), volume, meta.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume for %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// collect deletes a released volume of ours with its folder, when its policy says so.
func (p *provisioner) collect(volume *core.PersistentVolume) error {
	ours := volume.Annotations[provisionedBy] == provisionerName && volume.Spec.Local != nil
	if !ours || volume.Status.Phase != core.VolumeReleased || volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	if err := os.RemoveAll(volume.Spec.Local.Path); err != nil {
		return err
	}
	uid := volume.UID
	err := p.client.CoreV1().PersistentVolumes().Delete(context.Background(), volume.Name, meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
