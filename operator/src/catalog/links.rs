//! The links of all hubs.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::link::{HubKey, Link, LinkSettings, LinkState, Target, Told};

/// All links.
pub struct Links {
    links: Mutex<HashMap<HubKey, Arc<Link>>>,
    told: mpsc::Sender<Told>,
    settings: LinkSettings,
}

impl Links {
    /// No links yet; what they tell goes to `told`.
    pub fn new(settings: LinkSettings, told: mpsc::Sender<Told>) -> Links {
        Links { links: Mutex::default(), told, settings }
    }

    /// The public half of the key that signs calls, as brokers take it.
    pub fn public_key(&self) -> String {
        self.settings.key.public_pem()
    }

    /// The link to a hub.
    pub fn get(&self, key: &HubKey) -> Option<Arc<Link>> {
        self.links.lock().get(key).cloned()
    }

    /// Makes sure that a hub has a link that goes to `target`.
    pub fn ensure(&self, key: &HubKey, object_uid: &str, target: Target) -> Arc<Link> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(key).filter(|link| link.object_uid == object_uid) {
            link.aim(target);
            return Arc::clone(link);
        }
        let link = Link::start(key, object_uid, target, self.told.clone(), self.settings.clone());
        if let Some(old) = links.insert(key.clone(), Arc::clone(&link)) {
            old.stop();
        }
        link
    }

    /// Ends the link of a hub.
    pub fn remove(&self, key: &HubKey) {
        if let Some(link) = self.links.lock().remove(key) {
            link.stop();
        }
    }

    /// All hubs that have a link.
    pub fn keys(&self) -> Vec<HubKey> {
        self.links.lock().keys().cloned().collect()
    }

    /// How many hubs are linked and how many of them are known whole.
    pub fn counts(&self) -> (usize, usize) {
        let links = self.links.lock();
        let synced = links.values().filter(|link| matches!(link.state(), LinkState::Synced { .. })).count();
        (links.len(), synced)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for link in self.links.lock().values() {
            link.stop();
        }
    }
}
