"""An inventory as SPDX 2.3 in JSON."""

from __future__ import annotations

import hashlib
import json
import re
import uuid

from license_expression import ExpressionError, LicenseExpression, get_spdx_licensing
from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
from spdx_tools.spdx.model import (
    Actor,
    ActorType,
    Checksum,
    ChecksumAlgorithm,
    CreationInfo,
    Document,
    ExternalPackageRef,
    ExternalPackageRefCategory,
    ExtractedLicensingInfo,
    PackagePurpose,
    Relationship,
    RelationshipType,
    SpdxNoAssertion,
)
from spdx_tools.spdx.model import Package as SpdxPackage
from spdx_tools.spdx.validation.uri_validators import validate_url

from guestctl._version import __version__
from guestctl.detectors.sbom import Component, Inventory

_DOCUMENT, _ROOT = "SPDXRef-DOCUMENT", "SPDXRef-OperatingSystem"
_NAMESPACE = "https://spdx.org/spdxdocs"
_SOME = 100  # letters of a name that an identifier keeps


def to_spdx(inventory: Inventory) -> str:
    """The document; its namespace is random unless the inventory is reproducible."""
    licenses = _Licenses()
    packages = [_package(number, component, licenses) for number, component in enumerate(inventory.components, 1)]
    root = SpdxPackage(
        spdx_id=_ROOT,
        name=inventory.name,
        version=inventory.version or None,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        summary=inventory.guest.product_name,
        primary_package_purpose=PackagePurpose.OPERATING_SYSTEM,
    )
    name = "-".join(part for part in (inventory.name, inventory.version) if part)
    info = CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id=_DOCUMENT,
        name=name,
        document_namespace=f"{_NAMESPACE}/{re.sub('[^A-Za-z0-9.-]', '-', name)}-{_identifier(inventory)}",
        creators=[Actor(ActorType.TOOL, f"guestctl-{__version__}")],
        created=inventory.created.replace(tzinfo=None),
    )
    relationships = [Relationship(_DOCUMENT, RelationshipType.DESCRIBES, _ROOT)]
    relationships += [Relationship(_ROOT, RelationshipType.CONTAINS, package.spdx_id) for package in packages]
    document = Document(
        info,
        packages=[root, *packages],
        relationships=relationships,
        extracted_licensing_info=[licenses.extracted[key] for key in sorted(licenses.extracted)],
    )
    # The library says the same by a relationship alone.
    found = DocumentConverter().convert(document)  # type: ignore[no-untyped-call]
    return json.dumps(found | {"documentDescribes": [_ROOT]}, indent=2) + "\n"


def _identifier(inventory: Inventory) -> str:
    if not inventory.reproducible:
        return str(uuid.uuid4())
    words = (inventory.name, inventory.version, str(inventory.created), *(one.purl for one in inventory.components))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def _package(number: int, component: Component, licenses: _Licenses) -> SpdxPackage:
    purl, package, paths = component
    word = re.sub("[^A-Za-z0-9.-]", "-", f"{package.manager}-{package.name}")[:_SOME]
    name = f"{package.namespace}/{package.name}" if package.namespace else package.name
    return SpdxPackage(
        spdx_id=f"SPDXRef-{number}-{word}",
        name=name,
        version=package.full_version or None,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        supplier=_actor(package.publisher),
        homepage=None if validate_url(package.url) else package.url,
        source_info=f"found in {', '.join(paths)}" if paths else f"listed by {package.manager}",
        license_declared=licenses.declared(package.licenses),
        summary=package.summary or None,
        checksums=[Checksum(ChecksumAlgorithm[key.upper()], value) for key, value in package.digests.items()],
        external_references=[ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", purl)],
    )


def _actor(publisher: str) -> Actor | SpdxNoAssertion:
    """``Name <address>``: a person or, without an address, an organization."""
    name, _, address = publisher.partition("<")
    address = address.rstrip("> ")
    if not name.strip():
        return SpdxNoAssertion()
    kind = ActorType.PERSON if address else ActorType.ORGANIZATION
    return Actor(kind, re.sub(r"[()\s]+", " ", name).strip(), address if "@" in address else None)


class _Licenses:
    """Declared licenses as expressions; what is none becomes a reference to its text."""

    def __init__(self) -> None:
        self.extracted: dict[str, ExtractedLicensingInfo] = {}
        self._licensing = get_spdx_licensing()
        self._parsed: dict[str, LicenseExpression] = {}

    def declared(self, texts: list[str]) -> LicenseExpression | SpdxNoAssertion:
        found = [self._one(text) for text in sorted(set(texts)) if text.strip()]
        if not found:
            return SpdxNoAssertion()
        return found[0] if len(found) == 1 else self._licensing.AND(*found)

    def _one(self, text: str) -> LicenseExpression:
        if text not in self._parsed:
            try:
                self._parsed[text] = self._licensing.parse(text, validate=True, strict=True)
            except (ExpressionError, ValueError, KeyError):
                self._parsed[text] = self._reference(text)
        return self._parsed[text]

    def _reference(self, text: str) -> LicenseExpression:
        word = re.sub("[^A-Za-z0-9.]+", "-", text).strip("-")[:_SOME]
        key = f"LicenseRef-{word}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        self.extracted[key] = ExtractedLicensingInfo(key, text, license_name=" ".join(text.split())[:_SOME])
        return self._licensing.parse(key)
