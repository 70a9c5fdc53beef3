"""An inventory as CycloneDX 1.7 in JSON."""

from __future__ import annotations

import uuid

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component as BomComponent
from cyclonedx.model.component import ComponentType
from cyclonedx.model.component_evidence import ComponentEvidence, Occurrence
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot7
from packageurl import PackageURL

from guestctl._version import __version__
from guestctl.detectors.sbom import Component, Inventory

_HASHES = {"md5": HashAlgorithm.MD5, "sha1": HashAlgorithm.SHA_1, "sha256": HashAlgorithm.SHA_256}
_NAMESPACE = uuid.UUID("5d8e1f0c-6f0e-5b9e-9b57-2f3a3f4a6d11")  # of serial numbers that follow from the content


def to_cyclonedx(inventory: Inventory) -> str:
    """The document; its serial number is random unless the inventory is reproducible."""
    root = BomComponent(
        name=inventory.name,
        version=inventory.version or None,
        type=ComponentType.OPERATING_SYSTEM,
        description=inventory.guest.product_name,
        bom_ref="os",
    )
    components = [_component(component) for component in inventory.components]
    tool = BomComponent(name="guestctl", version=__version__, type=ComponentType.APPLICATION)
    metadata = BomMetaData(component=root, timestamp=inventory.created)
    metadata.tools.components.add(tool)
    serial = uuid.uuid4()
    if inventory.reproducible:
        words = (inventory.name, inventory.version, str(inventory.created), *(one.purl for one in inventory.components))
        serial = uuid.uuid5(_NAMESPACE, "\n".join(words))
    bom = Bom(components=components, metadata=metadata, serial_number=serial)
    bom.register_dependency(root, components)
    return JsonV1Dot7(bom).output_as_string(indent=2) + "\n"


def _component(component: Component) -> BomComponent:
    purl, package, paths = component
    references = []
    if package.url:
        references.append(ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(package.url)))
    properties = {"manager": package.manager, "source": package.source, "source_version": package.source_version}
    return BomComponent(
        name=package.name,
        group=package.namespace or None,
        version=package.full_version or None,
        type=ComponentType.LIBRARY,
        bom_ref=purl,
        purl=PackageURL.from_string(purl),
        publisher=package.publisher or None,
        description=package.summary or None,
        licenses=_licenses(package.licenses),
        hashes=[HashType(alg=_HASHES[name], content=digest) for name, digest in package.digests.items()],
        external_references=references,
        evidence=ComponentEvidence(occurrences=[Occurrence(location=path) for path in paths]) if paths else None,
        properties=[Property(name=f"guestctl:{name}", value=value) for name, value in properties.items() if value],
    )


def _licenses(texts: list[str]) -> list[License]:
    """By SPDX's identifiers and expressions where they are such; of several none may be an expression."""
    factory = LicenseFactory()
    found = [factory.make_from_string(text) for text in sorted(set(texts)) if text]
    if len(found) > 1:
        return [one if isinstance(one, DisjunctiveLicense) else DisjunctiveLicense(name=one.value) for one in found]
    return list(found)
